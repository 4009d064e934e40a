"""Qwen 3, dense models (Yang et al. 2025): Llama with an RMSNorm on each head's query and key.

The width of a head is a setting of its own: num_heads * head_dim may differ from dim.
"""

from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError
from ico.lm.families import _rotary
from ico.lm.families._family import Family
from ico.lm.families._gguf_header import GgufHeader


def _from_hf(config: dict[str, Any]) -> DecoderConfig:
    _rotary.check_values(config, hidden_act=("silu",))
    _rotary.refuse_windows(config)
    bias = bool(config.get("attention_bias", False))
    return DecoderConfig(
        family="qwen3",
        **_rotary.fields_from_hf({"head_dim": 128, **config}),  # the default in transformers
        qk_norm=True,
        qkv_bias=bias,
        output_bias=bias,
    )


def _to_hf(config: DecoderConfig) -> dict[str, Any]:
    return {
        "model_type": "qwen3",
        "architectures": ["Qwen3ForCausalLM"],
        **_rotary.to_hf(config),
        "hidden_act": "silu",
        "attention_bias": config.qkv_bias,
        "use_sliding_window": False,
    }


def _from_gguf(header: GgufHeader) -> DecoderConfig:
    if header.get("attention.sliding_window", 0):
        raise WeightFileError("sliding windows are not supported for 'qwen3'")
    bias = "blk.0.attn_q.bias" in header.shapes
    return DecoderConfig(
        family="qwen3",
        **_rotary.fields_from_gguf(header),
        qk_norm=True,
        qkv_bias=bias,
        output_bias=bias,
    )


QWEN3 = Family(
    name="qwen3",
    model_types=("qwen3",),
    from_hf=_from_hf,
    to_hf=_to_hf,
    from_gguf=_from_gguf,
    layer_names={**_rotary.LAYER_NAMES, **_rotary.QK_NORM_NAMES},
    top_names=_rotary.TOP_NAMES,
)
