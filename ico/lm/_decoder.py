"""One decoder for all families of models: pure functions of a plain dict of parameters.

Dimension key: B sequences, T tokens, S keys (cached or present), L layers, D width, H query heads,
K key heads, G query heads a key head, A head width, F MLP width, V words.

Parameters, layers stacked on axis 0 (in brackets the field of `DecoderConfig` that decides):

    {"embedding": [V, D], "positions": [P, D] (learned_positions), "head": [V, D] (not tied),
     "layers": {"attention_norm", "query" [L, D, H, A], "key", "value" [L, D, K, A],
                "query_norm", "key_norm" (qk_norm), "output" [L, H, A, D],
                "attention_post_norm" (post_norms),
                "mlp_norm", "gate" (gated_mlp), "up" [L, D, F], "down" [L, F, D],
                "mlp_post_norm" (post_norms)},
     "final_norm"}

A norm is {"scale"} or, for LayerNorm, {"scale", "bias"}; a matrix is {"kernel"} or {"kernel",
"bias"}. The scale is the factor itself (for Gemma 1 + w, where its files may hold w).
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ico.lm._config import DecoderConfig

# Subtrees of the parameters whose arrays stack the layers on axis 0, for `ico.optim.sparsify`.
STACKED = ("layers",)

Params = dict[str, Any]
Ids = Int[Array | np.ndarray, "B T"]


_ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True)}


class Cache(NamedTuple):
    """Cached keys and values of all layers [L, B, S, K, A]."""

    key: Array
    value: Array


def init_params(config: DecoderConfig, key, scale: float = 0.02) -> Params:
    """Random float32 parameters: normal matrices of deviation `scale`, norms 1, biases 0."""
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
        return {"scale": shape} | ({"bias": shape} if c.norm == "layer" else {})

    def matrix(kernel, bias, has_bias):
        return {"kernel": kernel} | ({"bias": bias} if has_bias else {})

    layers = {
        "attention_norm": norm(L, D),
        "query": matrix((L, D, H, A), (L, H, A), c.qkv_bias),
        "key": matrix((L, D, K, A), (L, K, A), c.qkv_bias),
        "value": matrix((L, D, K, A), (L, K, A), c.qkv_bias),
        "output": matrix((L, H, A, D), (L, D), c.output_bias),
        "mlp_norm": norm(L, D),
        "up": matrix((L, D, F), (L, F), c.mlp_bias),
        "down": matrix((L, F, D), (L, D), c.mlp_bias),
    }
    if c.gated_mlp:
        layers["gate"] = matrix((L, D, F), (L, F), c.mlp_bias)
    if c.qk_norm:
        layers |= {"query_norm": norm(L, A), "key_norm": norm(L, A)}
    if c.post_norms:
        layers |= {"attention_post_norm": norm(L, D), "mlp_post_norm": norm(L, D)}
    shapes = {"embedding": (c.vocab_size, D), "layers": layers, "final_norm": norm(D)}
    if c.learned_positions:
        shapes["positions"] = (c.context_length, D)
    if not c.tied:
        shapes["head"] = (c.vocab_size, D)
    return shapes


def check_ids(ids, config: DecoderConfig, what: str = "ids") -> None:
    """Checks that token ids are in the vocabulary, where their values are known (not under jit).

    Args:
      ids: integers, of any shape; traced ones are not checked.
      config: of the decoder.
      what: named in the message.

    Raises:
      ValueError: an id is negative, or the vocabulary has no such token.
    """
    _check_range(ids, config.vocab_size, what, "the vocabulary")


def _check_positions(positions, config: DecoderConfig) -> None:
    if config.learned_positions:
        _check_range(positions, config.context_length, "positions", "the model's context")


def _check_range(values, limit: int, what: str, of: str) -> None:
    if isinstance(values, jax.core.Tracer) or not getattr(values, "is_fully_addressable", True):
        return
    array = np.asarray(values)
    if not np.issubdtype(array.dtype, np.integer):
        raise ValueError(f"{what} must be integers, not {array.dtype}")
    outside = array[(array < 0) | (array >= limit)]
    if outside.size:
        raise ValueError(f"{what} must lie in [0, {limit}), {of}; one is {outside[0]}")


def segment_positions(segment_ids: Ids) -> Ids:
    """The position of every token in its segment: how many tokens of it come before."""
    T = segment_ids.shape[1]
    same_BTS = segment_ids[:, :, None] == segment_ids[:, None, :]
    return jnp.sum(same_BTS & np.tri(T, k=-1, dtype=bool)[None], axis=-1, dtype=jnp.int32)


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
    """The hidden states after the last layer and the final norm, and the keys and values.

    Args:
      params, config: the model.
      ids: token ids. Put padding on the right, where no real token attends to it. Under jit, where
        ids cannot be checked, one outside the vocabulary gives NaN.
      positions: positions of the tokens in their sequences; 0, 1, 2 ... in each segment by default.
      segment_ids: tokens attend to tokens of their own segment only (packed sequences).
      cache: room for S keys and values. Those of `ids` are written to it at `positions`, and a
        token attends to the entries up to its own position. Cannot be used with `segment_ids`.
      remat: recompute the activations of a layer in the backward pass instead of storing them.

    Returns:
      Hidden states in the type of the parameters, and the cache: the given one with the new keys
      and values, or just these.

    Raises:
      ValueError: an id outside the vocabulary, a learned position beyond the context, or both a
        cache and segments.
    """
    B, T = ids.shape
    check_ids(ids, config)
    if cache is not None and segment_ids is not None:
        raise ValueError("segment_ids cannot be used with a cache; score packed rows without one")
    if positions is None and segment_ids is not None:
        positions = segment_positions(segment_ids)
    elif positions is None:
        _check_positions(np.arange(T), config)
        positions = jnp.broadcast_to(jnp.arange(T), (B, T))
    _check_positions(positions, config)
    keys_BS = positions if cache is None else jnp.arange(cache.key.shape[2])[None]
    seen_BTS = keys_BS[:, None, :] <= positions[:, :, None]
    if segment_ids is not None:
        seen_BTS &= segment_ids[:, :, None] == segment_ids[:, None, :]
    near_BTS = seen_BTS
    if config.window:
        near_BTS = seen_BTS & (positions[:, :, None] - keys_BS[:, None, :] < config.window)

    x_BTD = _rows(params["embedding"], ids)
    if config.embed_scale != 1:
        # The published models round the factor to the type of the parameters.
        x_BTD = x_BTD * jnp.asarray(config.embed_scale, x_BTD.dtype)
    if config.learned_positions:
        x_BTD = x_BTD + _rows(params["positions"], positions)
    angles = _rotations(config.frequencies, config.rope_scale, positions)
    local_angles = _rotations(config.local_frequencies, 1.0, positions)

    def layer(x_BTD, inputs):
        weights, is_local, cached = inputs
        mask, rotation = seen_BTS, angles
        if config.window:
            mask = jnp.where(is_local, near_BTS, seen_BTS)
        if config.window and config.local_frequencies:
            rotation = jax.tree.map(functools.partial(jnp.where, is_local), local_angles, angles)
        normed_BTD = _norm(weights["attention_norm"], config, x_BTD)
        attended, cached = _attention(
            weights, config, normed_BTD, rotation, mask, positions, cached
        )
        if config.post_norms:
            attended = _norm(weights["attention_post_norm"], config, attended)
        x_BTD = x_BTD + attended
        updated = _mlp(weights, config, _norm(weights["mlp_norm"], config, x_BTD))
        if config.post_norms:
            updated = _norm(weights["mlp_post_norm"], config, updated)
        return x_BTD + updated, cached

    is_local_L = np.asarray(config.local_layers or (False,) * config.num_layers)
    step = jax.checkpoint(layer) if remat else layer
    x_BTD, cached = jax.lax.scan(step, x_BTD, (params["layers"], is_local_L, cache))
    return _norm(params["final_norm"], config, x_BTD), cached


def logits(
    params: Params, config: DecoderConfig, hidden: Float[Array, "*B D"]
) -> Float[Array, "*B V"]:
    """Logits over the vocabulary, in float32 or the hidden states' type if that is wider.

    Args:
      params, config: the model; of the parameters only the head is used.
      hidden: the first result of `hidden_states`.
    """
    head_VD = params["embedding"] if config.tied else params["head"]
    out = jnp.einsum(
        "...d,vd->...v",
        hidden,
        head_VD,
        preferred_element_type=jnp.promote_types(hidden.dtype, jnp.float32),
    )
    return _cap(out, config.logit_cap)


def _rows(table_VD, ids_BT):
    """Rows of a table, NaN for those that it does not have; never those of another id."""
    rows = table_VD.at[ids_BT]
    return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)


def _cap(x, cap: float):
    return cap * jnp.tanh(x / cap) if cap else x


def _norm(weights, config: DecoderConfig, x):
    """RMSNorm or LayerNorm, computed in float32 at least and returned in the type of x."""
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    if config.norm == "layer":
        wide = wide - wide.mean(-1, keepdims=True)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide**2, axis=-1, keepdims=True) + config.norm_eps)
    scale = weights["scale"].reshape((1,) * (x.ndim - 1) + (-1,))
    if not config.norm_scale_in_float32:
        wide = wide.astype(x.dtype)
    out = (wide * scale).astype(x.dtype)
    return out + weights["bias"].reshape(scale.shape) if "bias" in weights else out


def _linear(weights, x, num_contracted: int = 1):
    """Contracts the last axes of x with the first of the kernel, and adds the bias.

    Written as one product of two matrices, because XLA's CPU back end otherwise transposes the
    operands of the backward pass entry by entry (a quarter of the time of a training step).
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
    activation = _ACTIVATIONS[config.activation]
    up_BTF = _linear(weights["up"], x_BTD)
    if not config.gated_mlp:
        return _linear(weights["down"], activation(up_BTF))
    gate_BTF = activation(_linear(weights["gate"], x_BTD))
    return _linear(weights["down"], gate_BTF * up_BTF)


def _rotations(frequencies, scale: float, positions_BT):
    """Cosines and sines [B, T, 1, A / 2] of the rotary angles; None if there are none."""
    if not frequencies:
        return None
    inverse = np.asarray(frequencies, np.float32)[None, None]
    angles = positions_BT[..., None].astype(jnp.float32) * inverse
    return scale * jnp.cos(angles)[:, :, None], scale * jnp.sin(angles)[:, :, None]


def _rotate(x_BTHA, rotation):
    """Rotates the pairs of coordinates (i, i + A/2) by their angles, as transformers does."""
    if rotation is None:
        return x_BTHA
    cosine, sine = (a.astype(x_BTHA.dtype) for a in rotation)
    first, second = jnp.split(x_BTHA, 2, axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


def _attention(weights, config: DecoderConfig, x_BTD, rotation, mask_BTS, positions_BT, cached):
    """Grouped-query attention: its output [B, T, D], and the keys and values it read."""
    q_BTHA = _linear(weights["query"], x_BTD)
    k_BTKA = _linear(weights["key"], x_BTD)
    v_BTKA = _linear(weights["value"], x_BTD)
    if config.qk_norm:
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
