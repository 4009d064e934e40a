"""Gemma 3 (Gemma Team 2025), its text half: local layers with a sliding window, norms everywhere.

Norms multiply with 1 + w; safetensors hold w, GGUF holds 1 + w.
"""

import math
from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError
from ico.lm._rope import rope_base, rope_frequencies
from ico.lm.families import _rotary
from ico.lm.families._family import Family
from ico.lm.families._gguf_header import GgufHeader

# Defaults of transformers' Gemma3TextConfig, which a multimodal config.json leaves out.
_HF_DEFAULTS: dict[str, Any] = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131_072,
}


def _config(fields: dict[str, Any], local_theta: float, **more) -> DecoderConfig:
    architecture: dict[str, Any] = {
        "family": "gemma3",
        "norm_scale_in_float32": True,
        "activation": "gelu_tanh",
        "qk_norm": True,
        "post_norms": True,
        "embed_scale": math.sqrt(fields["dim"]),
        "local_frequencies": rope_frequencies(fields["head_dim"], local_theta, {})[0],
        "rope": (("local_theta", local_theta), *fields["rope"]),
    }
    return DecoderConfig(**{**fields, **architecture, **more})


def _from_hf(config: dict[str, Any]) -> DecoderConfig:
    _rotary.check_values(
        config,
        hidden_activation=("gelu_pytorch_tanh",),
        attention_bias=(False,),
        use_bidirectional_attention=(False,),
        attn_logit_softcapping=(0,),  # transformers reads it and does not apply it
    )
    config = {**_HF_DEFAULTS, **config}
    fields = _rotary.fields_from_hf(config, theta=1e6, layer_kind="full_attention", tied=True)
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    kinds = config.get("layer_types")
    if kinds is None:
        pattern = config.get("sliding_window_pattern") or 6
        local_layers = _every_nth_is_global(pattern, fields["num_layers"])
    else:
        if unknown := set(kinds) - {"sliding_attention", "full_attention"}:
            raise WeightFileError(f"layer_types {sorted(map(str, unknown))} are not supported")
        local_layers = tuple(kind == "sliding_attention" for kind in kinds)
    return _config(
        fields,
        local.get("rope_theta", config.get("rope_local_base_freq", 1e4)),
        query_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        window=config.get("sliding_window") or 4096,
        local_layers=local_layers,
        logit_cap=float(config.get("final_logit_softcapping") or 0),
    )


def _to_hf(config: DecoderConfig) -> dict[str, Any]:
    rope = dict(config.rope)
    return {
        "model_type": "gemma3_text",
        "architectures": ["Gemma3ForCausalLM"],
        **_rotary.to_hf(config),
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_local_base_freq": float(rope.get("local_theta", rope_base(config.local_frequencies))),
        # transformers 5 wants an integer, which it is in all published models.
        "query_pre_attn_scalar": round(config.query_scale**-2) if config.query_scale else 0,
        "sliding_window": config.window,
        "layer_types": [
            "sliding_attention" if local else "full_attention" for local in config.local_layers
        ],
        "final_logit_softcapping": float(config.logit_cap) or None,
    }


def _from_gguf(header: GgufHeader) -> DecoderConfig:
    if header.get("attn_logit_softcapping", 0.0):
        raise WeightFileError("a cap of attention scores is not supported for 'gemma3'")
    fields = _rotary.fields_from_gguf(header, theta=1e6)
    # The 27B model (62 layers) alone scales its scores by dim / heads, not by the head's width.
    if fields["num_layers"] == 62:
        fields["query_scale"] = (fields["dim"] / fields["num_heads"]) ** -0.5
    pattern = header.get("attention.sliding_window_pattern", 6)
    if isinstance(pattern, list):
        if len(pattern) != fields["num_layers"]:
            raise WeightFileError("sliding_window_pattern does not name every layer")
        local_layers = tuple(bool(value) for value in pattern)
    elif isinstance(pattern, int) and pattern > 0:
        local_layers = _every_nth_is_global(pattern, fields["num_layers"])
    else:
        raise WeightFileError(f"sliding_window_pattern {pattern!r} makes no sense")
    return _config(
        fields,
        float(header.get("rope.freq_base_swa", 1e4)),
        window=header.get("attention.sliding_window"),
        local_layers=local_layers,
        logit_cap=float(header.get("final_logit_softcapping", 0.0)),
    )


def _every_nth_is_global(n: int, num_layers: int) -> tuple[bool, ...]:
    """For each layer, whether it is local; the last of every n layers is not."""
    return tuple(bool((i + 1) % n) for i in range(num_layers))


GEMMA3 = Family(
    name="gemma3",
    model_types=("gemma3_text", "gemma3"),
    from_hf=_from_hf,
    to_hf=_to_hf,
    from_gguf=_from_gguf,
    layer_names={
        **_rotary.LAYER_NAMES,
        **_rotary.QK_NORM_NAMES,
        "attention_post_norm": ("post_attention_norm", "post_attention_layernorm"),
        "mlp_norm": ("ffn_norm", "pre_feedforward_layernorm"),
        "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
    },
    top_names=_rotary.TOP_NAMES,
    norm_offset=1,
)
