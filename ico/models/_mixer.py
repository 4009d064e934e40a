"""One sequence layer of `ico.layers` between its projections.

Dimension key: B batch, T positions, E token width, P width of the position code, H heads, A head
width, W width of the convolution.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, cast, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ico.layers import (
    cap_forget,
    delta_rule,
    linear_attention,
    mesa,
    mesa_cg,
    softmax_attention,
)
from ico.types import working_dtype

MixerKind = Literal[
    "softmax", "linear", "gated_linear", "delta", "gated_delta", "mesa", "gated_mesa", "mesa_cg"
]
_SHARPNESS = 10.0  # softmax scores of equal keys and queries of length one, at the start
_ONE = 0.5413248546129181  # softplus of this is one


class Mixer(nn.Module):
    """Causal multi-head attention of any kind, no biases.

    Parameters, for row vectors: query, key [H, E + P, A], value [H, E, A], out [H, A, E]; and, by
    kind, gate [E, H] with bias [H] (forgetting), beta [E, H], lam [H] (mesa), reg [H, A]
    (mesa_cg) or log_scale [H] (softmax with `normalise`).

    Fields:
      kind: "softmax"; "linear" (unscaled) and "gated_linear"; "delta" and "gated_delta"; "mesa"
        (exact) and "gated_mesa" (which forgets its regulariser too); "mesa_cg", MesaNet's, with its
        cap on forgetting and a regulariser of at least 1/4.
      num_heads, head_dim: H and A.
      normalise: whether keys and queries are normalised to length one; "delta" needs it. Softmax
        then multiplies their cosines by a learned scale, as 2010.04245 does; it starts at ten.
      conv_width: width W of a causal depthwise convolution, with SiLU, on keys and queries; 0 is
        none.
      norm_output: whether every head's output is normalised to unit mean square (RMSNorm).
      free_lam: whether lam itself is the parameter, as in the authors' code of 2309.05858; else
        lam is the softplus of the parameter. lam starts at one.
      gate_bias: initial logit of the forget gate; at 6 half is left after 280 positions.
      init_std: initial standard deviation of all matrices; None is 1 / sqrt(fan in).
      chunk_size: of the layers computed in chunks.
      num_steps: of conjugate gradient, "mesa_cg" alone.
    """

    kind: MixerKind
    num_heads: int
    head_dim: int
    normalise: bool = False
    conv_width: int = 0
    norm_output: bool = False
    free_lam: bool = False
    gate_bias: float = 6.0
    init_std: float | None = None
    chunk_size: int = 64
    num_steps: int = 10

    @nn.compact
    def __call__(
        self,
        x_BTE: Float[Array, "B T E"],
        code_TP: Float[Array, "T P"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
    ) -> Float[Array, "B T E"]:
        """The update of every token.

        Args:
          x_BTE: the tokens.
          code_TP: a position code, concatenated to the tokens for keys and queries.
          segment_ids: equal numbers for positions of one packed sequence.

        Raises:
          ValueError: an unknown kind.
        """
        if self.kind not in get_args(MixerKind):
            raise ValueError(f"kind must be one of {get_args(MixerKind)}, not {self.kind!r}")
        E, H, A = x_BTE.shape[-1], self.num_heads, self.head_dim
        q, k, v = self._projections(x_BTE, code_TP, segment_ids)
        out_HAE = self.param("out", self._init(H * A), (H, A, E))
        o_BTHA = _KINDS[self.kind](self, x_BTE, (q, k, v), segment_ids)
        if self.norm_output:
            o_BTHA = cast(Array, nn.RMSNorm(name="norm")(o_BTHA))
        return jnp.einsum("btha,hae->bte", o_BTHA, out_HAE)

    def _projections(self, x_BTE, code_TP, segment_ids):
        """The queries, keys and values [B, T, H, A] that the layer is given."""
        E, H, A = x_BTE.shape[-1], self.num_heads, self.head_dim
        placed = x_BTE
        if code_TP is not None:
            code_BTP = jnp.broadcast_to(code_TP[None], (len(x_BTE), *code_TP.shape))
            placed = jnp.concatenate([x_BTE, code_BTP.astype(x_BTE.dtype)], axis=-1)
        width = placed.shape[-1]
        q_BTHA, k_BTHA = (
            jnp.einsum("bte,hea->btha", placed, self.param(name, self._init(width), (H, width, A)))
            for name in ("query", "key")
        )
        v_BTHA = jnp.einsum("bte,hea->btha", x_BTE, self.param("value", self._init(E), (H, E, A)))
        if self.conv_width:
            q_BTHA, k_BTHA = (
                jax.nn.silu(self._convolve(a, f"{name}_conv", segment_ids))
                for a, name in ((q_BTHA, "query"), (k_BTHA, "key"))
            )
        if self.normalise:
            q_BTHA, k_BTHA = unit(q_BTHA), unit(k_BTHA)
        return q_BTHA, k_BTHA, v_BTHA

    def _init(self, fan_in):
        return nn.initializers.normal(fan_in**-0.5 if self.init_std is None else self.init_std)

    def _convolve(self, x_BTHA, name, segment_ids):
        """`y_t = sum_w c_w x_{t-w}` over the positions of one segment."""
        W, (_, T, H, A) = self.conv_width, x_BTHA.shape
        c_WHA = self.param(name, nn.initializers.normal(W**-0.5), (W, H, A))
        y_BTHA = x_BTHA * c_WHA[0][None, None]
        for w in range(1, min(W, T)):
            before = jnp.pad(x_BTHA[:, :-w], ((0, 0), (w, 0), (0, 0), (0, 0)))
            if segment_ids is not None:
                same = jnp.pad(segment_ids[:, w:] == segment_ids[:, :-w], ((0, 0), (w, 0)))
                before = jnp.where(same[..., None, None], before, 0)
            y_BTHA = y_BTHA + before * c_WHA[w][None, None]
        return y_BTHA

    def _sides(self, segment_ids):
        """Arguments common to the layers with a state."""
        return {"segment_ids": segment_ids, "chunk_size": self.chunk_size}

    def _beta(self, x_BTE):
        """How strongly each position writes, in (0, 1), [B, T, H]."""
        E, H = x_BTE.shape[-1], self.num_heads
        return jax.nn.sigmoid(x_BTE @ self.param("beta", self._init(E), (E, H)))

    def _log_forget(self, x_BTE):
        """The logarithm of the share of the state that each position keeps, [B, T, H]."""
        E, H = x_BTE.shape[-1], self.num_heads
        bias_H = self.param("gate_bias", nn.initializers.constant(self.gate_bias), (H,))
        logits = x_BTE @ self.param("gate", self._init(E), (E, H)) + bias_H[None, None]
        return jax.nn.log_sigmoid(logits)


def unit(x):
    """Normalises to length one; zero stays zero, and has a gradient."""
    wide = x.astype(working_dtype(x))
    wide = wide * jax.lax.rsqrt(jnp.sum(wide * wide, axis=-1, keepdims=True) + 1e-12)
    return wide.astype(x.dtype)


# The kinds, functions (mixer, tokens, (q, k, v), segment_ids) -> outputs of the heads [B, T, H, A].
# They run inside the mixer's compact method, so parameters that they ask for are the mixer's.


def _softmax(mixer: Mixer, x_BTE, qkv, segment_ids):
    q, k, v = qkv
    mask = None if segment_ids is None else _same_sequence(segment_ids)
    if not mixer.normalise:
        return softmax_attention(q, k, v, mask=mask)
    start = nn.initializers.constant(math.log(_SHARPNESS))
    scale_H = jnp.exp(mixer.param("log_scale", start, (mixer.num_heads,)))
    return softmax_attention(q * scale_H[None, None, :, None], k, v, scale=1.0, mask=mask)


def _linear(mixer: Mixer, x_BTE, qkv, segment_ids):
    return linear_attention(*qkv, **mixer._sides(segment_ids))


def _gated_linear(mixer: Mixer, x_BTE, qkv, segment_ids):
    return linear_attention(*qkv, log_forget=mixer._log_forget(x_BTE), **mixer._sides(segment_ids))


def _delta(mixer: Mixer, x_BTE, qkv, segment_ids):
    return delta_rule(*qkv, beta=mixer._beta(x_BTE), **mixer._sides(segment_ids))


def _gated_delta(mixer: Mixer, x_BTE, qkv, segment_ids):
    log_forget, beta = mixer._log_forget(x_BTE), mixer._beta(x_BTE)
    return delta_rule(*qkv, beta=beta, log_forget=log_forget, **mixer._sides(segment_ids))


def _mesa(mixer: Mixer, x_BTE, qkv, segment_ids):
    return mesa(*qkv, lam=_lam(mixer), **mixer._sides(segment_ids))


def _gated_mesa(mixer: Mixer, x_BTE, qkv, segment_ids):
    log_forget, sides = mixer._log_forget(x_BTE), mixer._sides(segment_ids)
    # Chunks in which little of the past is left are slow, so chunks are short.
    sides["chunk_size"] = min(mixer.chunk_size, 16)
    return mesa(*qkv, lam=_lam(mixer), log_forget=log_forget, **sides)


def _mesa_cg(mixer: Mixer, x_BTE, qkv, segment_ids):
    start = nn.initializers.constant(_ONE)
    reg_HA = mixer.param("reg", start, (mixer.num_heads, mixer.head_dim))
    beta, log_forget = mixer._beta(x_BTE), mixer._log_forget(x_BTE)
    return mesa_cg(
        *qkv,
        reg=0.25 + jax.nn.softplus(reg_HA),
        log_forget=log_forget + jnp.log(cap_forget(jnp.ones_like(beta), beta)),
        beta=beta,
        num_steps=mixer.num_steps,
        **mixer._sides(segment_ids),
    )


def _lam(mixer: Mixer):
    """The regulariser's inverse of every head, [H]."""
    start = nn.initializers.constant(1.0 if mixer.free_lam else _ONE)
    lam_H = mixer.param("lam", start, (mixer.num_heads,))
    return lam_H if mixer.free_lam else jax.nn.softplus(lam_H)


def _same_sequence(segment_ids):
    """Whether two positions belong to one packed sequence, [B, 1, T, T].

    A sequence ends where the number changes, as in the layers with a state.
    """
    changes_BT = segment_ids[:, 1:] != segment_ids[:, :-1]
    which_BT = jnp.cumsum(jnp.pad(changes_BT, ((0, 0), (1, 0))), axis=1)
    return (which_BT[:, :, None] == which_BT[:, None, :])[:, None]


_KINDS: dict[str, Callable[..., Any]] = {
    "softmax": _softmax,
    "linear": _linear,
    "gated_linear": _gated_linear,
    "delta": _delta,
    "gated_delta": _gated_delta,
    "mesa": _mesa,
    "gated_mesa": _gated_mesa,
    "mesa_cg": _mesa_cg,
}
