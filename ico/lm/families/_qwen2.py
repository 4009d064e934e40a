"""Qwen 2 and Qwen 2.5 (Yang et al. 2024): Llama with biases of query, key and value alone."""

from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError
from ico.lm.families import _rotary
from ico.lm.families._family import Family
from ico.lm.families._gguf_header import GgufHeader


def _from_hf(config: dict[str, Any]) -> DecoderConfig:
    _rotary.check_values(config, hidden_act=("silu",))
    _rotary.refuse_windows(config)
    return DecoderConfig(family="qwen2", **_rotary.fields_from_hf(config), qkv_bias=True)


def _to_hf(config: DecoderConfig) -> dict[str, Any]:
    return {
        "model_type": "qwen2",
        "architectures": ["Qwen2ForCausalLM"],
        **_rotary.to_hf(config),
        "hidden_act": "silu",
        "use_sliding_window": False,
    }


def _from_gguf(header: GgufHeader) -> DecoderConfig:
    if header.get("attention.sliding_window", 0):
        raise WeightFileError("sliding windows are not supported for 'qwen2'")
    return DecoderConfig(family="qwen2", **_rotary.fields_from_gguf(header), qkv_bias=True)


QWEN2 = Family(
    name="qwen2",
    model_types=("qwen2",),
    from_hf=_from_hf,
    to_hf=_to_hf,
    from_gguf=_from_gguf,
    layer_names=_rotary.LAYER_NAMES,
    top_names=_rotary.TOP_NAMES,
)
