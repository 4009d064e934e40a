"""A decoder's configuration from the metadata of a GGUF file, from a config.json, and back."""

from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError
from ico.lm._rope import rope_frequencies


def from_hf(config: dict[str, Any]) -> DecoderConfig:
    """The configuration in a config.json of transformers.

    Raises:
      WeightFileError: another architecture, or a variant that the decoder does not compute.
    """
    text = config.get("text_config")
    if isinstance(text, dict):  # a multimodal Gemma 3: its text half
        config = {"tie_word_embeddings": config.get("tie_word_embeddings", True), **text}
    kind = config.get("model_type")
    readers = {
        "llama": _llama_from_hf,
        "gemma3_text": _gemma3_from_hf,
        "gemma3": _gemma3_from_hf,
        "gpt2": _gpt2_from_hf,
    }
    if kind not in readers:
        raise WeightFileError(
            f"model_type {kind!r} is not supported ({', '.join(sorted(readers))})"
        )
    try:
        return readers[kind](config)
    except KeyError as error:
        raise WeightFileError(f"config.json lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise WeightFileError(f"config.json: {error}") from None


def _expect(config, **wanted):
    for name, allowed in wanted.items():
        value = config.get(name)
        if value is not None and value not in allowed:
            raise WeightFileError(f"{name} {value!r} is not supported (only {allowed})")


def _check_size(name: str, value) -> None:
    """Before anything of that size is made."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**16:
        raise WeightFileError(f"{name} {value!r} makes no sense")


def _rope_of(config, layer_kind: str = "") -> dict[str, Any]:
    """Base and scaling, in the form of transformers 5 (rope_parameters) or of those before."""
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


def _shared(config) -> dict[str, Any]:
    for name in ("num_attention_heads", "hidden_size", "num_hidden_layers", "head_dim"):
        _check_size(name, config.get(name) or config["hidden_size"])
    heads = config["num_attention_heads"]
    return {
        "vocab_size": config["vocab_size"],
        "dim": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_heads": heads,
        "num_kv_heads": config.get("num_key_value_heads") or heads,
        "head_dim": config.get("head_dim") or config["hidden_size"] // heads,
        "mlp_dim": config["intermediate_size"],
        "context_length": config.get("max_position_embeddings") or 2048,
        "norm_eps": float(config.get("rms_norm_eps", 1e-6)),
    }


def _llama_from_hf(config) -> DecoderConfig:
    _expect(config, hidden_act=("silu",))
    sizes, rope = _shared(config), _rope_of(config)
    frequencies, scale = rope_frequencies(sizes["head_dim"], rope.get("rope_theta", 1e4), rope)
    return DecoderConfig(
        "llama",
        **sizes,
        query_scale=sizes["head_dim"] ** -0.5,
        frequencies=frequencies,
        rope_scale=scale,
        tied=bool(config.get("tie_word_embeddings", False)),
        attention_bias=bool(config.get("attention_bias", False)),
        mlp_bias=bool(config.get("mlp_bias", False)),
        rope=tuple(sorted((k, v) for k, v in rope.items() if not isinstance(v, (list, dict)))),
    )


def _gemma3_from_hf(config: dict[str, Any]) -> DecoderConfig:
    _expect(
        config,
        hidden_activation=("gelu_pytorch_tanh",),
        attention_bias=(False,),
        use_bidirectional_attention=(False,),
    )
    defaults: dict[str, Any] = {  # of transformers' Gemma3TextConfig, which config.json leaves out
        "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216,
        "num_hidden_layers": 26, "num_attention_heads": 8, "num_key_value_heads": 4,
        "head_dim": 256, "max_position_embeddings": 131_072,
    }  # fmt: skip
    config = {**defaults, **config}
    sizes = _shared(config)
    rope = _rope_of(config, "full_attention")
    local = (config.get("rope_parameters") or {}).get("sliding_attention") or {}
    local_theta = local.get("rope_theta", config.get("rope_local_base_freq", 1e4))
    frequencies, scale = rope_frequencies(sizes["head_dim"], rope.get("rope_theta", 1e6), rope)
    kinds = config.get("layer_types")
    if kinds is None:
        pattern = config.get("sliding_window_pattern") or 6
        locals_ = tuple(bool((i + 1) % pattern) for i in range(sizes["num_layers"]))
    else:
        if unknown := set(kinds) - {"sliding_attention", "full_attention"}:
            raise WeightFileError(f"layer_types {sorted(map(str, unknown))} are not supported")
        locals_ = tuple(kind == "sliding_attention" for kind in kinds)
    return DecoderConfig(
        "gemma3",
        **sizes,
        query_scale=float(config.get("query_pre_attn_scalar", 256)) ** -0.5,
        frequencies=frequencies,
        local_frequencies=rope_frequencies(sizes["head_dim"], local_theta, {})[0],
        rope_scale=scale,
        window=config.get("sliding_window") or 4096,
        local_layers=locals_,
        score_cap=float(config.get("attn_logit_softcapping") or 0),
        logit_cap=float(config.get("final_logit_softcapping") or 0),
        tied=bool(config.get("tie_word_embeddings", True)),
        rope=(
            ("local_theta", local_theta),
            *sorted((k, v) for k, v in rope.items() if not isinstance(v, (list, dict))),
        ),
    )


def _gpt2_from_hf(config) -> DecoderConfig:
    _expect(
        config,
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
    )
    dim, heads = config.get("n_embd", 768), config.get("n_head", 12)
    return DecoderConfig(
        "gpt2",
        vocab_size=config.get("vocab_size", 50_257),
        dim=dim,
        num_layers=config.get("n_layer", 12),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=dim // heads,
        mlp_dim=config.get("n_inner") or 4 * dim,
        context_length=config.get("n_positions", 1024),
        norm_eps=float(config.get("layer_norm_epsilon", 1e-5)),
        query_scale=(dim // heads) ** -0.5,
        tied=bool(config.get("tie_word_embeddings", True)),
        attention_bias=True,
        mlp_bias=True,
    )


def from_gguf(metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> DecoderConfig:
    """The configuration in a GGUF file's metadata.

    Args:
      metadata: keys and values of the file's header.
      tensors: names and shapes [out, in]; they decide vocabulary, tied head and biases.

    Raises:
      WeightFileError: another architecture, or a field that is missing or makes no sense.
    """
    arch = metadata.get("general.architecture")
    if arch not in ("llama", "gemma3", "gpt2"):
        raise WeightFileError(f"architecture {arch!r} is not supported (llama, gemma3, gpt2)")

    def get(name, *default) -> Any:
        value = metadata.get(f"{arch}.{name}", *default)
        if value is None and not default:
            raise WeightFileError(f"the file lacks {arch}.{name}")
        return value

    if "token_embd.weight" not in tensors or len(tensors["token_embd.weight"]) != 2:
        raise WeightFileError("the file lacks a two-dimensional token_embd.weight")
    heads, dim = get("attention.head_count"), get("embedding_length")
    if not (isinstance(heads, int) and isinstance(dim, int) and heads > 0):
        raise WeightFileError("heads and width must be the same in all layers, and positive")
    sizes = {
        "vocab_size": tensors["token_embd.weight"][0],
        "dim": dim,
        "num_layers": get("block_count"),
        "num_heads": heads,
        "num_kv_heads": get("attention.head_count_kv", heads),
        "head_dim": get("attention.key_length", dim // heads),
        "mlp_dim": get("feed_forward_length"),
        "context_length": get("context_length"),
        "tied": "output.weight" not in tensors,
    }
    if arch == "gpt2":
        return DecoderConfig(
            "gpt2",
            **sizes,
            norm_eps=float(get("attention.layer_norm_epsilon", 1e-5)),
            query_scale=sizes["head_dim"] ** -0.5,
            attention_bias=True,
            mlp_bias=True,
        )
    for name in ("num_layers", "head_dim"):
        _check_size(name, sizes[name])
    if get("rope.dimension_count", sizes["head_dim"]) != sizes["head_dim"]:
        raise WeightFileError("partial rotary positions are not supported")
    if get("expert_count", 0):
        raise WeightFileError("mixtures of experts are not supported")
    scaling = {
        "rope_type": get("rope.scaling.type", "none"),
        "factor": get("rope.scaling.factor", get("rope.scale_linear", None)),
        "original_max_position_embeddings": get("rope.scaling.original_context_length", None)
        or sizes["context_length"],
        "rope_theta": float(get("rope.freq_base", 1e6 if arch == "gemma3" else 1e4)),
    }
    scaling = {key: value for key, value in scaling.items() if value is not None}
    if scaling["rope_type"] == "none" and "factor" in scaling:
        scaling["rope_type"] = "linear"
    frequencies, scale = rope_frequencies(sizes["head_dim"], scaling["rope_theta"], scaling)
    common = {
        **sizes,
        "norm_eps": float(get("attention.layer_norm_rms_epsilon")),
        "frequencies": frequencies,
        "rope_scale": scale,
        "query_scale": sizes["head_dim"] ** -0.5,
    }
    if arch == "llama":
        return DecoderConfig(
            "llama",
            **common,
            attention_bias="blk.0.attn_q.bias" in tensors,
            mlp_bias="blk.0.ffn_up.bias" in tensors,
            rope=tuple(sorted(scaling.items())),
        )
    # Gemma 3 of 27B (62 layers) alone scales by the width of a head in the residual stream.
    if sizes["num_layers"] == 62:
        common["query_scale"] = (dim / heads) ** -0.5
    pattern = get("attention.sliding_window_pattern", 6)
    if isinstance(pattern, list):
        if len(pattern) != sizes["num_layers"]:
            raise WeightFileError("sliding_window_pattern does not name every layer")
        locals_ = tuple(bool(value) for value in pattern)
    elif isinstance(pattern, int) and pattern > 0:
        locals_ = tuple(bool((i + 1) % pattern) for i in range(sizes["num_layers"]))
    else:
        raise WeightFileError(f"sliding_window_pattern {pattern!r} makes no sense")
    local_theta = float(get("rope.freq_base_swa", 1e4))
    return DecoderConfig(
        "gemma3",
        **common,
        local_frequencies=rope_frequencies(sizes["head_dim"], local_theta, {})[0],
        window=get("attention.sliding_window"),
        local_layers=locals_,
        score_cap=float(get("attn_logit_softcapping", 0.0)),
        logit_cap=float(get("final_logit_softcapping", 0.0)),
        rope=(("local_theta", local_theta), *sorted(scaling.items())),
    )


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """A config.json that transformers and `from_hf` read as this configuration.

    Raises:
      ValueError: rotary factors that no config.json can describe.
    """
    if dict(config.rope).get("rope_type") == "factors":
        raise ValueError("this model's rotary factors cannot be written to a config.json")
    if config.family == "gpt2":
        return {
            "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"],
            "vocab_size": config.vocab_size, "n_embd": config.dim, "n_layer": config.num_layers,
            "n_head": config.num_heads, "n_inner": config.mlp_dim,
            "n_positions": config.context_length, "layer_norm_epsilon": config.norm_eps,
            "activation_function": "gelu_new", "tie_word_embeddings": config.tied,
        }  # fmt: skip
    rope = dict(config.rope)
    local_theta = rope.pop("local_theta", None)
    theta = rope.pop("rope_theta", 1e4)
    rope_type = rope.pop("rope_type", rope.pop("type", "default")) or "default"
    rope_type = "default" if rope_type == "none" else rope_type
    scaling = {"rope_type": rope_type, **rope} if rope_type != "default" else None
    shared = {
        "vocab_size": config.vocab_size, "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers, "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads, "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim, "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps, "tie_word_embeddings": config.tied,
        "rope_theta": theta, "rope_scaling": scaling,
    }  # fmt: skip
    if config.family == "llama":
        return {
            "model_type": "llama", "architectures": ["LlamaForCausalLM"], **shared,
            "hidden_act": "silu", "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias,
        }  # fmt: skip
    return {
        "model_type": "gemma3_text", "architectures": ["Gemma3ForCausalLM"], **shared,
        "hidden_activation": "gelu_pytorch_tanh", "rope_local_base_freq": local_theta,
        "query_pre_attn_scalar": round(config.query_scale**-2, 6),
        "sliding_window": config.window,
        "layer_types": [
            "sliding_attention" if local else "full_attention" for local in config.local_layers
        ],
        "attn_logit_softcapping": config.score_cap or None,
        "final_logit_softcapping": config.logit_cap or None,
    }  # fmt: skip
