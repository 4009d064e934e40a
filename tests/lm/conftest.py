"""Small random models of each family."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.lm import DecoderConfig, LanguageModel, init_params
from ico.lm._rope import rope_frequencies

SIZES = {
    "vocab_size": 37,
    "dim": 24,
    "num_layers": 4,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_dim": 20,
    "context_length": 64,
    "norm_eps": 1e-5,
    "query_scale": 8**-0.5,
}
ANGLES = rope_frequencies(8, 120.0, {})[0]
ROTARY = {**SIZES, "frequencies": ANGLES, "rope": (("rope_theta", 120.0),)}
CONFIGS = {
    "llama": DecoderConfig(family="llama", **ROTARY, tied=False),
    "gemma3": DecoderConfig(
        family="gemma3",
        **{**ROTARY, "rope": (("local_theta", 1e4), ("rope_theta", 120.0))},
        norm_scale_in_float32=True,
        activation="gelu_tanh",
        qk_norm=True,
        post_norms=True,
        embed_scale=24**0.5,
        local_frequencies=(1.0, 0.1, 0.01, 0.001),
        window=3,
        local_layers=(True, True, False, True),
        score_cap=4.0,
        logit_cap=3.0,
    ),
    "gpt2": DecoderConfig(
        family="gpt2",
        **{**SIZES, "num_kv_heads": 4, "dim": 32},
        norm="layer",
        activation="gelu_tanh",
        gated_mlp=False,
        learned_positions=True,
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    ),
    "qwen2": DecoderConfig(family="qwen2", **ROTARY, qkv_bias=True),
    "qwen3": DecoderConfig(family="qwen3", **ROTARY, qk_norm=True, tied=False),
}


def random_model(family: str, **changes) -> LanguageModel:
    """A model whose norms and biases differ from their initial ones and zeros."""
    config = dataclasses.replace(CONFIGS[family], **changes)
    # One program, and NumPy's noise: many small programs take seconds to compile.
    params = jax.jit(init_params, static_argnums=(0, 2))(config, jax.random.key(0), 0.3)
    rng = np.random.default_rng(1)
    noisy = jax.tree.map(
        lambda leaf: leaf + jnp.asarray(0.1 * rng.normal(size=leaf.shape), leaf.dtype), params
    )
    return LanguageModel(noisy, config)


# These two have between them every option of the decoder; the others are slow tests.
EVERY_OPTION = {"gemma3", "gpt2"}


@pytest.fixture(
    params=[
        pytest.param(name, marks=() if name in EVERY_OPTION else pytest.mark.slow)
        for name in sorted(CONFIGS)
    ]
)
def model(request):
    return random_model(request.param)
