"""What the families with rotary positions, RMSNorm and a gated MLP share in their files.

Llama's names of keys and tensors became a convention that later families follow.
"""

from collections.abc import Collection
from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError
from ico.lm._rope import rope_base, rope_frequencies
from ico.lm.families._gguf_header import GgufHeader

# Parameter -> (name in GGUF, name in safetensors).
LAYER_NAMES = {
    "attention_norm": ("attn_norm", "input_layernorm"),
    "query": ("attn_q", "self_attn.q_proj"),
    "key": ("attn_k", "self_attn.k_proj"),
    "value": ("attn_v", "self_attn.v_proj"),
    "output": ("attn_output", "self_attn.o_proj"),
    "mlp_norm": ("ffn_norm", "post_attention_layernorm"),
    "gate": ("ffn_gate", "mlp.gate_proj"),
    "up": ("ffn_up", "mlp.up_proj"),
    "down": ("ffn_down", "mlp.down_proj"),
}
QK_NORM_NAMES = {
    "query_norm": ("attn_q_norm", "self_attn.q_norm"),
    "key_norm": ("attn_k_norm", "self_attn.k_norm"),
}
# Settings in GGUF that are supported only with the values that change nothing.
_PLAIN = {
    "attention.scale": 0.0,
    "embedding_scale": 0.0,
    "logit_scale": 0.0,
    "residual_scale": 0.0,
    "rope.scaling.alpha": 0.0,
    "rope.scaling.attn_factor": 1.0,
    "rope.scaling.yarn_attn_factor": 1.0,
    "rope.scaling.yarn_ext_factor": 1.0,
    "rope.scaling.yarn_log_multiplier": 0.0,
}
TOP_NAMES = {
    "embedding": ("token_embd", "model.embed_tokens"),
    "final_norm": ("output_norm", "model.norm"),
    "head": ("output", "lm_head"),
}


def check_values(config: dict[str, Any], **supported: Collection[Any]) -> None:
    """Checks keys of a config.json that the decoder supports with some values only.

    Raises:
      WeightFileError: a key is there with another value.
    """
    for name, allowed in supported.items():
        value = config.get(name)
        if value is not None and value not in allowed:
            raise WeightFileError(f"{name} {value!r} is not supported (only {allowed})")


def check_size(name: str, value) -> None:
    """Rejects an implausible size before anything is allocated.

    Raises:
      WeightFileError: not an integer in [1, 65535].
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**16:
        raise WeightFileError(f"{name} {value!r} makes no sense")


def refuse_windows(config: dict[str, Any]) -> None:
    """Refuses a config.json that asks for sliding windows, as Qwen's may.

    Raises:
      WeightFileError: a layer has a window.
    """
    kinds = config.get("layer_types")
    if kinds is not None:
        windowed = any(kind != "full_attention" for kind in kinds)
    else:
        first = config.get("max_window_layers", 28)  # the default in transformers
        windowed = bool(config.get("use_sliding_window")) and first < config["num_hidden_layers"]
    if windowed:
        raise WeightFileError(
            f"sliding windows are not supported for {config.get('model_type')!r}: "
            "no published model uses them"
        )


def hf_rope(config: dict[str, Any], layer_kind: str = "") -> dict[str, Any]:
    """Base and context extension of rotary positions in a config.json.

    Args:
      config: with `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling` (before).
      layer_kind: which entry of `rope_parameters` to take if it has one for each kind of layer.

    Raises:
      WeightFileError: only a part of each head is rotated.
    """
    parameters = config.get("rope_parameters") or {}
    if layer_kind and isinstance(parameters.get(layer_kind), dict):
        parameters = parameters[layer_kind]
    rope = dict(parameters or config.get("rope_scaling") or {})
    if "rope_theta" not in rope and config.get("rope_theta") is not None:
        rope["rope_theta"] = config["rope_theta"]
    rope.setdefault("original_max_position_embeddings", config.get("max_position_embeddings"))
    if rope.get("partial_rotary_factor", 1) not in (1, 1.0, None):
        raise WeightFileError("partial rotary positions are not supported")
    return rope


def fields_from_hf(
    config: dict[str, Any], *, theta: float = 1e4, layer_kind: str = "", tied: bool = False
) -> dict[str, Any]:
    """The fields of DecoderConfig that these families read alike in a config.json.

    Args:
      config: the config.json.
      theta: the rotary base if the file names none.
      layer_kind: see `hf_rope`.
      tied: whether the head is tied if the file does not say.

    Raises:
      KeyError: a key is missing.
      WeightFileError: a size or a rotary setting makes no sense or is not supported.
    """
    for name in ("num_attention_heads", "hidden_size", "num_hidden_layers", "head_dim"):
        check_size(name, config.get(name) or config["hidden_size"])
    heads = config["num_attention_heads"]
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    rope = hf_rope(config, layer_kind)
    frequencies, scale = rope_frequencies(head_dim, rope.get("rope_theta", theta), rope)
    return {
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": head_dim,
        "mlp_dim": config["intermediate_size"],
        "context_length": config.get("max_position_embeddings") or 2048,
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "query_scale": head_dim**-0.5,
        "frequencies": frequencies,
        "rope_scale": scale,
        "tied": bool(config.get("tie_word_embeddings", tied)),
        "rope": tuple(sorted((k, v) for k, v in rope.items() if not isinstance(v, (list, dict)))),
    }


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """The entries of config.json that these families share."""
    rope = dict(config.rope)
    rope.pop("local_theta", None)
    theta = rope.pop("rope_theta", None)
    theta = rope_base(config.frequencies) if theta is None else theta
    rope_type = rope.pop("rope_type", rope.pop("type", "default")) or "default"
    rope_type = "default" if rope_type == "none" else rope_type
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": float(config.norm_eps),
        "tie_word_embeddings": config.tied,
        "rope_theta": float(theta),
        "rope_scaling": {"rope_type": rope_type, **rope} if rope_type != "default" else None,
    }


def fields_from_gguf(header: GgufHeader, *, theta: float = 1e4) -> dict[str, Any]:
    """The fields of DecoderConfig that these families read alike in a GGUF header.

    Args:
      header: of the file.
      theta: the rotary base if the file names none.

    Raises:
      WeightFileError: a key is missing, makes no sense or is not supported.
    """
    sizes = header.sizes()
    for name in ("num_layers", "head_dim"):
        check_size(name, sizes[name])
    if header.get("rope.dimension_count", sizes["head_dim"]) != sizes["head_dim"]:
        raise WeightFileError("partial rotary positions are not supported")
    if header.get("expert_count", 0):
        raise WeightFileError("mixtures of experts are not supported")
    factor = header.get("rope.scaling.factor", header.get("rope.scale_linear", None))
    original = header.get("rope.scaling.original_context_length", None)
    for name, plain in _PLAIN.items():
        if header.get(name, plain) != plain:
            raise WeightFileError(f"{name} is not supported (only {plain})")
    rope = {
        "rope_type": header.get("rope.scaling.type", "none"),
        "factor": factor,
        "beta_fast": header.get("rope.scaling.yarn_beta_fast", None),
        "beta_slow": header.get("rope.scaling.yarn_beta_slow", None),
        "original_max_position_embeddings": original or sizes["context_length"],
        "rope_theta": float(header.get("rope.freq_base", theta)),
    }
    rope = {key: value for key, value in rope.items() if value is not None}
    if rope["rope_type"] == "none" and "factor" in rope:
        rope["rope_type"] = "linear"
    frequencies, scale = rope_frequencies(sizes["head_dim"], rope["rope_theta"], rope)
    return {
        **sizes,
        "norm_eps": float(header.get("attention.layer_norm_rms_epsilon")),
        "query_scale": sizes["head_dim"] ** -0.5,
        "frequencies": frequencies,
        "rope_scale": scale,
        "rope": tuple(sorted(rope.items())),
    }
