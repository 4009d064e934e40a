"""One decoder for the Llama, Gemma 3 and GPT-2 families: pure functions over a plain dict.

Dimension key: B sequences, T tokens, S keys (cached or present), L layers, D width, H query heads,
K key heads, G query heads a key head, A head width, F MLP width, V words.

Parameters, layers stacked on axis 0:

    {"embedding": [V, D], "positions": [P, D] (GPT-2), "head": [V, D] (untied),
     "layers": {"attention_norm", "query" [L, D, H, A], "key", "value" [L, D, K, A],
                "output" [L, H, A, D], "query_norm", "key_norm", "attention_post_norm" (Gemma 3),
                "mlp_norm", "gate", "up" [L, D, F], "down" [L, F, D], "mlp_post_norm" (Gemma 3)},
     "final_norm"}

Every norm is {"scale", "bias" (GPT-2)} and every matrix {"kernel", "bias" (where there is one)}.
A norm's scale is what it multiplies with: Gemma's 1 + w.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ico.lm._config import DecoderConfig

# Subtrees of the parameters whose arrays hold a tensor for every layer, for `ico.optim.sparsify`.
STACKED = ("layers",)

Params = dict[str, Any]
Ids = Int[Array | np.ndarray, "B T"]


class Cache(NamedTuple):
    """Keys and values of all layers [L, B, S, K, A]."""

    key: Array
    value: Array


def init_params(config: DecoderConfig, key, scale: float = 0.02) -> Params:
    """Random parameters of a configuration: normal matrices, norms of scale 1, biases 0."""
    shapes = param_shapes(config)
    leaves, treedef = jax.tree.flatten_with_path(shapes, is_leaf=lambda a: isinstance(a, tuple))
    keys = jax.random.split(key, len(leaves))

    def draw(path, shape, key):
        name = path[-1].key
        if name == "bias":
            return jnp.zeros(shape)
        return jnp.ones(shape) if name == "scale" else scale * jax.random.normal(key, shape)

    return jax.tree.unflatten(
        treedef, [draw(path, shape, key) for (path, shape), key in zip(leaves, keys, strict=True)]
    )


def param_shapes(config: DecoderConfig) -> Params:
    """The shape of every parameter, as a tree of tuples."""
    c = config
    L, D, H, K, A, F = c.num_layers, c.dim, c.num_heads, c.num_kv_heads, c.head_dim, c.mlp_dim

    def norm(*shape):
        return {"scale": shape} | ({"bias": shape} if c.family == "gpt2" else {})

    def matrix(kernel, bias, has_bias):
        return {"kernel": kernel} | ({"bias": bias} if has_bias else {})

    layers = {
        "attention_norm": norm(L, D),
        "query": matrix((L, D, H, A), (L, H, A), c.attention_bias),
        "key": matrix((L, D, K, A), (L, K, A), c.attention_bias),
        "value": matrix((L, D, K, A), (L, K, A), c.attention_bias),
        "output": matrix((L, H, A, D), (L, D), c.attention_bias),
        "mlp_norm": norm(L, D),
        "up": matrix((L, D, F), (L, F), c.mlp_bias),
        "down": matrix((L, F, D), (L, D), c.mlp_bias),
    }
    if c.gated:
        layers["gate"] = matrix((L, D, F), (L, F), c.mlp_bias)
    if c.family == "gemma3":
        layers |= {"query_norm": norm(L, A), "key_norm": norm(L, A)}
        layers |= {"attention_post_norm": norm(L, D), "mlp_post_norm": norm(L, D)}
    shapes = {"embedding": (c.vocab_size, D), "layers": layers, "final_norm": norm(D)}
    if c.family == "gpt2":
        shapes["positions"] = (c.context_length, D)
    if not c.tied:
        shapes["head"] = (c.vocab_size, D)
    return shapes


def hidden_states(
    params: Params,
    config: DecoderConfig,
    ids: Ids,
    *,
    positions: Ids | None = None,
    segment_ids: Ids | None = None,
    cache: Cache | None = None,
    remat: bool = False,
) -> tuple[Float[Array, "B T D"], Cache]:
    """The normalised hidden states after the last layer, and the keys and values.

    Args:
      params, config: the model.
      ids: token ids. Padding stands on the right, where no real token sees it.
      positions: of the tokens in their sequences; 0, 1, 2 ... by default.
      segment_ids: tokens see tokens of their own segment only (packed sequences).
      cache: keys and values of S places to write to at `positions` and to read from; a token sees
        the places up to its own position. Not together with `segment_ids`.
      remat: recompute a layer in the backward pass rather than keep its activations.
    """
    B, T = ids.shape
    if positions is None:
        positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    keys_BS = positions if cache is None else jnp.arange(cache.key.shape[2])[None]
    seen_BTS = keys_BS[:, None, :] <= positions[:, :, None]
    if segment_ids is not None:
        seen_BTS &= segment_ids[:, :, None] == segment_ids[:, None, :]
    near_BTS = seen_BTS
    if config.window:
        near_BTS = seen_BTS & (positions[:, :, None] - keys_BS[:, None, :] < config.window)

    x_BTD = params["embedding"][ids]
    if config.embed_scale != 1:
        # As the published models: the factor is rounded to the type of the weights.
        x_BTD = x_BTD * jnp.asarray(config.embed_scale, x_BTD.dtype)
    if config.family == "gpt2":
        x_BTD = x_BTD + params["positions"][positions]
    angles = _rotations(config.frequencies, config.rope_scale, positions)
    local_angles = _rotations(config.local_frequencies, 1.0, positions)

    def layer(x_BTD, inputs):
        weights, is_local, cached = inputs
        mask, rotation = seen_BTS, angles
        if config.window:
            mask = jnp.where(is_local, near_BTS, seen_BTS)
            rotation = jax.tree.map(functools.partial(jnp.where, is_local), local_angles, angles)
        attended, cached = _attention(
            weights, config, _norm(weights["attention_norm"], config, x_BTD), rotation, mask,
            positions, cached,
        )  # fmt: skip
        if config.family == "gemma3":
            attended = _norm(weights["attention_post_norm"], config, attended)
        x_BTD = x_BTD + attended
        updated = _mlp(weights, config, _norm(weights["mlp_norm"], config, x_BTD))
        if config.family == "gemma3":
            updated = _norm(weights["mlp_post_norm"], config, updated)
        return x_BTD + updated, cached

    is_local_L = np.asarray(config.local_layers or (False,) * config.num_layers)
    step = jax.checkpoint(layer) if remat else layer
    x_BTD, cached = jax.lax.scan(step, x_BTD, (params["layers"], is_local_L, cache))
    return _norm(params["final_norm"], config, x_BTD), cached


def logits(
    params: Params, config: DecoderConfig, hidden: Float[Array, "*B D"]
) -> Float[Array, "*B V"]:
    """Logits over the vocabulary, in float32 or the hidden states' own type if that is wider."""
    head_VD = params["embedding"] if config.tied else params["head"]
    out = jnp.einsum(
        "...d,vd->...v",
        hidden,
        head_VD,
        preferred_element_type=jnp.promote_types(hidden.dtype, jnp.float32),
    )
    return _cap(out, config.logit_cap)


def _cap(x, cap: float):
    return cap * jnp.tanh(x / cap) if cap else x


def _norm(weights, config: DecoderConfig, x):
    """RMSNorm, or LayerNorm where there is a bias; in float32 at least."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if config.family == "gpt2":
        wide = wide - wide.mean(-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + config.norm_eps)
    scale = weights["scale"].reshape((1,) * (x.ndim - 1) + (-1,))
    if config.family != "gemma3":  # Gemma multiplies before it rounds, Llama after
        wide = wide.astype(x.dtype)
    out = (wide * scale).astype(x.dtype)
    return out + weights["bias"].reshape(scale.shape) if "bias" in weights else out


def _linear(weights, x, num_contracted: int = 1):
    """Contracts the last axes of x with the first of the kernel, and adds the bias.

    As one product of two matrices: XLA's CPU back end transposes the operands of the backward
    pass entry by entry otherwise (a quarter of a training step).
    """
    kernel = weights["kernel"]
    width = math.prod(kernel.shape[:num_contracted])
    shape = (*x.shape[: x.ndim - num_contracted], *kernel.shape[num_contracted:])
    out = (x.reshape(-1, width) @ kernel.reshape(width, -1)).reshape(shape)
    if "bias" not in weights:
        return out
    bias = weights["bias"]
    return out + bias.reshape((1,) * (out.ndim - bias.ndim) + bias.shape)


def _mlp(weights, config: DecoderConfig, x_BTD):
    up_BTF = _linear(weights["up"], x_BTD)
    if config.family == "gpt2":
        return _linear(weights["down"], jax.nn.gelu(up_BTF, approximate=True))
    gate_BTF = _linear(weights["gate"], x_BTD)
    if config.family == "gemma3":
        gate_BTF = jax.nn.gelu(gate_BTF, approximate=True)
    else:
        gate_BTF = jax.nn.silu(gate_BTF)
    return _linear(weights["down"], gate_BTF * up_BTF)


def _rotations(frequencies, scale: float, positions_BT):
    """Cosines and sines [B, T, 1, A / 2] of rotary positions; None without."""
    if not frequencies:
        return None
    inverse = np.asarray(frequencies, np.float32)[None, None]
    angles = positions_BT[..., None].astype(jnp.float32) * inverse
    return scale * jnp.cos(angles)[:, :, None], scale * jnp.sin(angles)[:, :, None]


def _rotate(x_BTHA, rotation):
    """Rotary positions on halves: coordinates i and i + A/2 are a pair (as in transformers)."""
    if rotation is None:
        return x_BTHA
    cosine, sine = (a.astype(x_BTHA.dtype) for a in rotation)
    first, second = jnp.split(x_BTHA, 2, axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


def _attention(weights, config: DecoderConfig, x_BTD, rotation, mask_BTS, positions_BT, cached):
    """Grouped-query attention; returns the output [B, T, D] and keys and values."""
    q_BTHA = _linear(weights["query"], x_BTD)
    k_BTKA = _linear(weights["key"], x_BTD)
    v_BTKA = _linear(weights["value"], x_BTD)
    if config.family == "gemma3":
        q_BTHA = _norm(weights["query_norm"], config, q_BTHA)
        k_BTKA = _norm(weights["key_norm"], config, k_BTKA)
    q_BTHA, k_BTKA = _rotate(q_BTHA, rotation), _rotate(k_BTKA, rotation)
    if cached is not None:
        rows_B1 = jnp.arange(len(x_BTD))[:, None]
        cached = Cache(
            cached.key.at[rows_B1, positions_BT].set(k_BTKA.astype(cached.key.dtype)),
            cached.value.at[rows_B1, positions_BT].set(v_BTKA.astype(cached.value.dtype)),
        )
        k_BTKA, v_BTKA = cached
    else:
        cached = Cache(k_BTKA, v_BTKA)

    B, T, H, A = q_BTHA.shape
    q_BTKGA = q_BTHA.reshape(B, T, config.num_kv_heads, -1, A)
    wide = jnp.promote_types(x_BTD.dtype, jnp.float32)
    scores = jnp.einsum(
        "btkga,bska->bkgts", q_BTKGA * config.query_scale, k_BTKA, preferred_element_type=wide
    )
    scores = jnp.where(mask_BTS[:, None, None], _cap(scores, config.score_cap), jnp.finfo(wide).min)
    weights_BKGTS = jax.nn.softmax(scores, axis=-1).astype(x_BTD.dtype)
    out_BTKGA = jnp.einsum("bkgts,bska->btkga", weights_BKGTS, v_BTKA)
    out = _linear(weights["output"], out_BTKGA.reshape(B, T, H, A), 2)
    return out, cached
