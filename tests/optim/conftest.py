"""A small problem for learned optimizers."""

import jax
import jax.numpy as jnp
import optax

from ico import optim

PARAMS = {
    "body": {"kernel": jnp.arange(6.0).reshape(2, 3) / 5, "bias": jnp.array([0.1, -0.2, 0.3])},
    "head": {"kernel": jnp.array([[0.5], [-1.0], [2.0]])},
}


def loss(params):
    h = jnp.tanh(jnp.ones((1, 2)) @ params["body"]["kernel"] + params["body"]["bias"][None])
    return jnp.sum((h @ params["head"]["kernel"] - 0.3) ** 2)


def perturbed(theta, size=0.3, seed=1):
    """The tree with normal noise added, so that every part of a learned optimizer matters."""
    leaves, structure = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    noisy = [a + size * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, noisy)


def random_theta(config=None):
    """A theta of L3RS for PARAMS, away from its start."""
    config = optim.L3RS() if config is None else config
    return perturbed(config.init(jax.random.key(0), PARAMS))


def run(optimizer, steps, params=PARAMS):
    """Parameters and state after some steps, and (loss, gradients, updates) of each."""

    @jax.jit
    def step(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state, (value, grads, updates)

    state, seen = optimizer.init(params), []
    for _ in range(steps):
        params, state, row = step(params, state)
        seen.append(row)
    return params, state, seen
