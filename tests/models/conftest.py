"""Prompts and parameters for models."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.types import Prompt


@pytest.fixture(scope="session")
def make_prompt():
    """`make_prompt(seed, B, N, D, K, Q)`: any numbers of the size of data."""

    def make(seed=0, B=2, N=5, D=3, K=2, Q=3):
        rng = np.random.default_rng(seed)
        shapes = (B, N, D), (B, N, K), (B, Q, D)
        return Prompt(*(jnp.asarray(rng.uniform(-1, 1, shape)) for shape in shapes))

    return make


@pytest.fixture(scope="session")
def make_params():
    """`make_params(model, prompt)`: parameters so large that every part of the model matters."""

    def make(model, prompt, seed=0, scale=0.5):
        rng = np.random.default_rng(seed)
        shapes = jax.eval_shape(model.init, jax.random.key(0), prompt)["params"]
        return jax.tree.map(
            lambda leaf: jnp.asarray(scale * rng.standard_normal(leaf.shape), prompt.x.dtype),
            shapes,
        )

    return make
