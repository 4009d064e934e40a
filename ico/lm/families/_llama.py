"""Llama (Touvron et al. 2023), and models in its form: SmolLM 2, TinyLlama."""

from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm.families import _rotary
from ico.lm.families._family import Family
from ico.lm.families._gguf_header import GgufHeader


def _from_hf(config: dict[str, Any]) -> DecoderConfig:
    _rotary.check_values(config, hidden_act=("silu",))
    bias = bool(config.get("attention_bias", False))
    return DecoderConfig(
        family="llama",
        **_rotary.fields_from_hf(config),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
    )


def _to_hf(config: DecoderConfig) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **_rotary.to_hf(config),
        "hidden_act": "silu",
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
    }


def _from_gguf(header: GgufHeader) -> DecoderConfig:
    bias = "blk.0.attn_q.bias" in header.shapes
    return DecoderConfig(
        family="llama",
        **_rotary.fields_from_gguf(header),
        qkv_bias=bias,
        output_bias=bias,
        mlp_bias="blk.0.ffn_up.bias" in header.shapes,
    )


LLAMA = Family(
    name="llama",
    model_types=("llama",),
    from_hf=_from_hf,
    to_hf=_to_hf,
    from_gguf=_from_gguf,
    layer_names=_rotary.LAYER_NAMES,
    top_names=_rotary.TOP_NAMES,
    gguf_interleaves_rotary_pairs=True,
)
