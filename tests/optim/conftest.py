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


def random_theta(**kwargs):
    theta = optim.l3rs_init(jax.random.key(0), PARAMS, **kwargs)
    leaves, structure = jax.tree.flatten(theta)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        structure,
        [a + 0.3 * jax.random.normal(k, a.shape) for k, a in zip(keys, leaves, strict=True)],
    )


def run(optimizer, steps, params=PARAMS):
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
