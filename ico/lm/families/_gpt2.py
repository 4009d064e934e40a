"""GPT-2 (Radford et al. 2019): LayerNorm, learned positions, biases everywhere."""

from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm.families._family import Family
from ico.lm.families._gguf_header import GgufHeader
from ico.lm.families._rotary import check_values

_ARCHITECTURE: dict[str, Any] = {
    "family": "gpt2",
    "norm": "layer",
    "activation": "gelu_tanh",
    "gated_mlp": False,
    "learned_positions": True,
    "qkv_bias": True,
    "output_bias": True,
    "mlp_bias": True,
}


def _from_hf(config: dict[str, Any]) -> DecoderConfig:
    check_values(
        config,
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
    )
    # The defaults are those of transformers' GPT2Config, which config.json may leave out.
    dim, heads = config.get("n_embd", 768), config.get("n_head", 12)
    return DecoderConfig(
        **_ARCHITECTURE,
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
    )


def _to_hf(config: DecoderConfig) -> dict[str, Any]:
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_embd": config.dim,
        "n_layer": config.num_layers,
        "n_head": config.num_heads,
        "n_inner": config.mlp_dim,
        "n_positions": config.context_length,
        "layer_norm_epsilon": float(config.norm_eps),
        "activation_function": "gelu_new",
        "tie_word_embeddings": config.tied,
    }


def _from_gguf(header: GgufHeader) -> DecoderConfig:
    sizes = header.sizes()
    return DecoderConfig(
        **_ARCHITECTURE,
        **sizes,
        norm_eps=float(header.get("attention.layer_norm_epsilon", 1e-5)),
        query_scale=sizes["head_dim"] ** -0.5,
    )


GPT2 = Family(
    name="gpt2",
    model_types=("gpt2",),
    from_hf=_from_hf,
    to_hf=_to_hf,
    from_gguf=_from_gguf,
    layer_names={
        "attention_norm": ("attn_norm", "ln_1"),
        "query": ("attn_qkv", "attn.c_attn"),
        "key": ("attn_qkv", "attn.c_attn"),
        "value": ("attn_qkv", "attn.c_attn"),
        "output": ("attn_output", "attn.c_proj"),
        "mlp_norm": ("ffn_norm", "ln_2"),
        "up": ("ffn_up", "mlp.c_fc"),
        "down": ("ffn_down", "mlp.c_proj"),
    },
    top_names={
        "embedding": ("token_embd", "wte"),
        "positions": ("position_embd", "wpe"),
        "final_norm": ("output_norm", "ln_f"),
        "head": ("output", "lm_head"),
    },
    layer_prefix="h.",
    optional_prefix="transformer.",
    ignored=(".attn.bias", ".attn.masked_bias"),  # causal masks
    kernels_in_out=True,
)
