"""Prompts for explicit learners."""

import jax.numpy as jnp
import numpy as np
import pytest

from ico.types import Episode, Prompt


@pytest.fixture(scope="session")
def make_episode():
    """`make_episode(seed, B, N, D, K, Q)`: noisy linear tasks, made by numpy, W kept from nobody.

    Inputs have the training distribution's scale (x64 decides the type).
    """

    def make(seed=0, B=2, N=6, D=3, K=2, Q=2, noise=0.3):
        rng = np.random.default_rng(seed)
        x, w = rng.uniform(-1, 1, (B, N + Q, D)), rng.standard_normal((B, D, K))
        y = x @ w + noise * rng.standard_normal((B, N + Q, K))
        x, y = jnp.asarray(x), jnp.asarray(y)
        return Episode(Prompt(x[:, :N], y[:, :N], x[:, N:]), y[:, N:])

    return make
