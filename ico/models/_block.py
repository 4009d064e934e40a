"""The transformer block of the in-context models: attention with absorbed projections, and MLP.

Dimension key: B tasks, T tokens with queries, S context tokens (keys and values), E token width,
H heads, A head width, M hidden width of the MLP.
"""

from typing import Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ico.layers import linear_attention, softmax_attention

Kind = Literal["linear", "softmax"]


class Attention(nn.Module):
    """Attention of query tokens over context tokens, no biases (2212.07677, Eq. 3).

    Parameters, for row vectors (`key = e W`): query, key [H, E, A], value [H, E, A],
    out [H, A, E]. The paper's matrices are W_K = key^T, W_Q = query^T, W_V = value^T, P = out^T.
    `init_scale` is a **variance** scale, as in the authors' code (the paper calls it a standard
    deviation): variance init_scale / fan_in.
    """

    num_heads: int
    head_dim: int
    kind: Kind = "linear"
    init_scale: float = 0.002

    @nn.compact
    def __call__(
        self, queries_BTE: Float[Array, "B T E"], context_BSE: Float[Array, "B S E"]
    ) -> Float[Array, "B T E"]:
        E, H, A = queries_BTE.shape[-1], self.num_heads, self.head_dim
        in_init = nn.initializers.variance_scaling(
            self.init_scale, "fan_in", "truncated_normal", batch_axis=(0,)
        )
        out_init = nn.initializers.variance_scaling(
            self.init_scale, "fan_in", "truncated_normal", in_axis=(0, 1)
        )
        query_HEA = self.param("query", in_init, (H, E, A))
        key_HEA = self.param("key", in_init, (H, E, A))
        value_HEA = self.param("value", in_init, (H, E, A))
        out_HAE = self.param("out", out_init, (H, A, E))
        # (x W_Q) . (e W_K) = (x W_Q W_K^T) . e, and sum_i s_i (e_i W_V) P = (sum_i s_i e_i) W_V P:
        # with both products of weights taken first, the tokens themselves are keys and values,
        # the same for all heads; so T tokens with H heads are T H queries of one head.
        query_key_HEE = jnp.einsum("hea,hfa->hef", query_HEA, key_HEA)
        value_out_HEE = jnp.einsum("hea,haf->hef", value_HEA, out_HAE)
        B, T, _ = queries_BTE.shape
        q_BTHE = jnp.einsum("bte,hef->bthf", queries_BTE, query_key_HEE)
        q, kv = q_BTHE.reshape(B, T * H, 1, E), context_BSE[:, :, None]
        if self.kind == "linear":
            # One E x E state per task serves many queries; for a single query scores are cheaper.
            form = "parallel" if T * H == 1 else "chunked"
            o = cast(Array, linear_attention(q, kv, kv, causal=False, form=form))
        else:
            o = softmax_attention(q, kv, kv, causal=False, scale=A**-0.5)
        return jnp.einsum("bthe,hef->btf", o.reshape(B, T, H, E), value_out_HEE)


class Mlp(nn.Module):
    """Two linear maps with GELU (tanh form, as in the authors' code) between."""

    hidden_dim: int
    use_bias: bool = False
    init_scale: float = 0.002

    @nn.compact
    def __call__(self, x_BTE: Float[Array, "B T E"]) -> Float[Array, "B T E"]:
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "truncated_normal")

        def dense(features, name):
            return nn.Dense(features, use_bias=self.use_bias, kernel_init=init, name=name)

        h_BTM = jax.nn.gelu(dense(self.hidden_dim, "up")(x_BTE))
        return dense(x_BTE.shape[-1], "down")(h_BTM)


class Block(nn.Module):
    """Attention and, if `mlp_dim` > 0, an MLP, each with a residual and optionally a LayerNorm.

    `damping` multiplies both updates. `update="targets"` lets attention write only into the last
    `num_outputs` coordinates, as a gradient step does. `token_clip` > 0 clips every coordinate
    after an update.
    """

    num_outputs: int
    head_dim: int
    num_heads: int = 1
    kind: Kind = "linear"
    mlp_dim: int = 0
    norm_attention: bool = False
    norm_mlp: bool = False
    token_clip: float = 0.0
    damping: float = 1.0
    update: Literal["all", "targets"] = "all"
    init_scale: float = 0.002

    def setup(self):
        if self.norm_attention:
            self.attention_norm = nn.LayerNorm(epsilon=1e-5)
        if self.mlp_dim:
            if self.norm_mlp:
                self.mlp_norm = nn.LayerNorm(epsilon=1e-5)
            self.mlp = Mlp(self.mlp_dim, init_scale=self.init_scale)
        self.attention = Attention(self.num_heads, self.head_dim, self.kind, self.init_scale)

    def __call__(
        self, tokens_BTE: Float[Array, "B T E"], num_context: int, only_queries: bool = False
    ) -> Float[Array, "B U E"]:
        """One block over `num_context` context tokens followed by query tokens.

        Keys and values come from the context alone; no token attends to a query token. With
        `only_queries` only the updated query tokens are returned, which is all a last layer needs.
        """
        normed_BTE = self.attention_norm(tokens_BTE) if self.norm_attention else tokens_BTE
        first = num_context if only_queries else 0
        tokens_BTE = tokens_BTE[:, first:]
        delta_BTE = self.attention(normed_BTE[:, first:], normed_BTE[:, :num_context])
        if self.update == "targets":
            width = delta_BTE.shape[-1]
            is_target_E = jnp.arange(width) >= width - self.num_outputs
            delta_BTE = jnp.where(is_target_E[None, None], delta_BTE, 0)
        tokens_BTE = self._clip(tokens_BTE + self.damping * delta_BTE)
        if self.mlp_dim:
            normed_BTE = self.mlp_norm(tokens_BTE) if self.norm_mlp else tokens_BTE
            tokens_BTE = self._clip(tokens_BTE + self.damping * self.mlp(normed_BTE))
        return tokens_BTE

    def _clip(self, tokens):
        return jnp.clip(tokens, -self.token_clip, self.token_clip) if self.token_clip else tokens
