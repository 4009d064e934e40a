"""Small random models of each family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.lm import DecoderConfig, LanguageModel, init_params

SIZES = {
    "vocab_size": 37, "dim": 24, "num_layers": 4, "num_heads": 4, "num_kv_heads": 2,
    "head_dim": 8, "mlp_dim": 20, "context_length": 64, "norm_eps": 1e-5, "query_scale": 8**-0.5,
}  # fmt: skip
ANGLES = (1.0, 0.3, 0.1, 0.03)
CONFIGS = {
    "llama": DecoderConfig(
        "llama", **SIZES, frequencies=ANGLES, tied=False, rope=(("rope_theta", 1e4),)
    ),
    "gemma3": DecoderConfig(
        "gemma3",
        **SIZES,
        frequencies=ANGLES,
        local_frequencies=(1.0, 0.1, 0.01, 0.001),
        window=3,
        local_layers=(True, True, False, True),
        score_cap=4.0,
        logit_cap=3.0,
        rope=(("local_theta", 1e4), ("rope_theta", 1e4)),
    ),
    "gpt2": DecoderConfig(
        "gpt2", **{**SIZES, "num_kv_heads": 4, "dim": 32}, attention_bias=True, mlp_bias=True
    ),
}


def random_model(family: str, **changes) -> LanguageModel:
    """A model whose norms and biases are not their initial ones and zeros."""
    config = dataclasses.replace(CONFIGS[family], **changes)
    # One program, and NumPy's noise: many small programs take seconds to compile.
    params = jax.jit(init_params, static_argnums=(0, 2))(config, jax.random.key(0), 0.3)
    rng = np.random.default_rng(1)
    noisy = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype), params
    )
    return LanguageModel(noisy, config)


@pytest.fixture(params=sorted(CONFIGS))
def model(request):
    return random_model(request.param)
