"""Attention among the members of a set, of three kinds, between learned projections.

Dimension key: B sets, T members that ask, S members that answer, E width, H heads, A head width,
M hidden width.
"""

from typing import Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import FrozenDict
from jaxtyping import Array, Float

from ico.layers import linear_attention, mesa_all_keys, softmax_attention
from ico.models._mixer import unit

SetKind = Literal["softmax", "linear", "mesa"]


class SetAttention(nn.Module):
    """Attention without an order; outputs do not depend on that of the context.

    Fields:
      kind: "softmax"; "linear", the mean of values by their scores; "mesa", the least-squares map
        from keys to values, of keys and queries of length one.
      num_heads, head_dim: H and A.
    """

    kind: SetKind
    num_heads: int
    head_dim: int

    @nn.compact
    def __call__(
        self, x_BTE: Float[Array, "B T E"], context_BSE: Float[Array, "B S E"]
    ) -> Float[Array, "B T E"]:
        """The update of every member."""
        E, H, A = x_BTE.shape[-1], self.num_heads, self.head_dim

        def projected(name, of):
            init = nn.initializers.glorot_uniform(in_axis=0, out_axis=(1, 2))
            kernel_EHA = self.param(name, init, (of.shape[-1], H, A))
            bias_HA = self.param(f"{name}_bias", nn.initializers.zeros, (H, A))
            return jnp.einsum("bte,eha->btha", of, kernel_EHA) + bias_HA[None, None]

        q, k, v = (
            projected("query", x_BTE),
            projected("key", context_BSE),
            projected("value", context_BSE),
        )
        if self.kind == "softmax":
            o_BTHA = softmax_attention(q, k, v, causal=False)
        elif self.kind == "linear":
            o_BTHA = cast(Array, linear_attention(q, k, v / k.shape[1], causal=False))
        else:
            lam_H = self.param("lam", nn.initializers.zeros, (H,))
            o_BTHA = mesa_all_keys(unit(q), unit(k), v, lam=jax.nn.softplus(lam_H))
        init = nn.initializers.glorot_uniform(in_axis=(0, 1), out_axis=2)
        out_HAE = self.param("out", init, (H, A, E))
        bias_E = self.param("out_bias", nn.initializers.zeros, (E,))
        return jnp.einsum("btha,hae->bte", o_BTHA, out_HAE) + bias_E[None, None]


class SetBlock(nn.Module):
    """Attention, then two dense layers, each with a residual and a norm after it (post-LN).

    Fields:
      kind, num_heads, head_dim: as of `SetAttention`.
      hidden_dim: M.
      cross: whether the members attend to themselves first, and then to the context (a decoder).
      norm: whether there are norms at all; without, weights set by hand can be exact.
    """

    kind: SetKind
    num_heads: int
    head_dim: int
    hidden_dim: int
    cross: bool = False
    norm: bool = True

    @nn.compact
    def __call__(
        self, x_BTE: Float[Array, "B T E"], context_BSE: Float[Array, "B S E"] | None = None
    ) -> tuple[Float[Array, "B T E"], None]:
        """The members after the block, and nothing, as `nn.scan` wants it."""

        def attend(x, context, name):
            update = SetAttention(self.kind, self.num_heads, self.head_dim, name=name)(x, context)
            return self._normed(x + update, f"{name}_norm")

        x_BTE = attend(x_BTE, x_BTE, "attention")
        if self.cross:
            assert context_BSE is not None
            x_BTE = attend(x_BTE, context_BSE, "cross")
        hidden = jax.nn.relu(nn.Dense(self.hidden_dim, name="up")(x_BTE))
        update = nn.Dense(x_BTE.shape[-1], name="down")(hidden)
        return self._normed(x_BTE + update, "mlp_norm"), None

    def _normed(self, x, name):
        return nn.LayerNorm(epsilon=1e-6, name=name)(x) if self.norm else x


class SetBlocks(nn.Module):
    """Blocks one after the other, compiled once: their parameters have a leading axis.

    Fields:
      num_blocks: how many.
      block: fields of `SetBlock`.
    """

    num_blocks: int
    block: FrozenDict

    @nn.compact
    def __call__(
        self, x_BTE: Float[Array, "B T E"], context_BSE: Float[Array, "B S E"] | None = None
    ) -> Float[Array, "B T E"]:
        """The members after all blocks; without a context they attend to each other alone."""
        scanned = nn.scan(
            SetBlock,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.num_blocks,
        )
        return scanned(**self.block, name="block")(x_BTE, context_BSE)[0]
