"""What a training does along the way, against the training itself."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ico import metatrain


def hill():
    """1/2 |x|^2 + noise x."""
    return metatrain.Task(
        lambda key: jax.random.normal(key, (2,)),
        lambda key: jax.random.normal(key, (2,)),
        lambda x, noise: 0.5 * jnp.sum(x**2) + noise @ x,
    )


class WatchingTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    def test_batches_are_those_of_the_run(self):
        """With them gradient descent, written out, ends where `run` does."""
        key, task = jax.random.key(3), hill()
        noise = self.variant(lambda key: metatrain.batches_of(task, key, 5))(key)
        x = task.init(jax.random.split(key)[0])
        for batch in noise:
            x = x - 0.1 * (x + batch)
        np.testing.assert_allclose(x, metatrain.run(optax.sgd(0.1), task, key, 5)[0], rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    def test_the_state_is_watched_after_every_step(self):
        """Adam's first moment, from the gradients along the way."""
        key, task = jax.random.key(4), hill()
        keys = tuple(jax.random.split(key))
        optimizer = optax.with_extra_args_support(optax.adam(0.1, b1=0.5))
        watched = self.variant(lambda keys: metatrain.watch(optimizer, task, keys, 4, ("mu", "nu")))
        mu_T2, nu_T2 = watched(keys)
        chex.assert_shape((mu_T2, nu_T2), (4, 2))
        noise, mu = metatrain.batches_of(task, key, 4), np.zeros(2)
        for t in range(4):
            x = metatrain.run(optimizer, task, key, t)[0]
            mu = 0.5 * mu + 0.5 * np.asarray(x + noise[t])
            np.testing.assert_allclose(mu_T2[t], mu, rtol=1e-4, atol=1e-6)


def test_a_stopwatch_compiles_once():
    traced = chex.assert_max_traces(lambda schedule, horizon, theta: optax.sgd(theta), n=1)
    timed = metatrain.stopwatch(traced, hill(), 0.1, 5)
    for theta in (0.1, 0.2):
        seconds = timed(jax.random.split(jax.random.key(0), 3), jnp.asarray(theta))
        assert 0 < seconds < 10
