"""The transformer of "Transformers learn in-context by gradient descent" on constructed tokens.

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs, E token width, L layers.
"""

from typing import Literal, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from ico.models._block import Block, Kind, Mlp
from ico.types import Prompt


class LinearTransformer(nn.Module):
    """Self-attention over tokens e_i = (x_i, y_i); the query token is (x_query, 0).

    Every layer adds `P sum_i (W_V e_i) (W_K e_i)^T W_Q e_j`, the sum over context tokens only; the
    prediction is **minus** the last K coordinates of the query token (2212.07677, Eq. 3 and
    Proposition 1; the sign and the exclusion of the query are the authors' code's).

    Fields:
      num_inputs, num_outputs: D and K.
      num_layers: L. `tied` repeats one block, else each has its own.
      num_heads, head_dim: heads and their width; None is the token width.
      attention: "linear" (unscaled) or "softmax" (scaled by 1/sqrt(head_dim)), or one a layer.
      mlp_dim: hidden width of the MLP in each block; 0 is no MLP.
      layer_norm: LayerNorm before attention and MLP; never before the first attention of an untied
        model, whose tokens are the data themselves (as in the authors' code).
      token_clip: clips token coordinates after each update; 0 is off.
      damping, update: see `Block`; used to repeat one layer many times.
      embed_dim: width of a linear embedding of the tokens; 0 is none.
      input_mlp_dim: hidden width of a residual MLP (with biases) on the embedded tokens; 0 is none.
      initial_weights: whether the model has learned initial weights W_0 [K, D]; the query token is
        then (x, -W_0 x).
      init_scale: variance scale of the initialisation, 0.002 / L in the authors' code.
    """

    num_inputs: int = 10
    num_outputs: int = 1
    num_layers: int = 1
    tied: bool = False
    num_heads: int = 1
    head_dim: int | None = None
    attention: Kind | tuple[Kind, ...] = "linear"
    mlp_dim: int = 0
    layer_norm: bool = False
    token_clip: float = 0.0
    damping: float = 1.0
    update: Literal["all", "targets"] = "all"
    embed_dim: int = 0
    input_mlp_dim: int = 0
    initial_weights: bool = False
    init_scale: float = 0.002

    @property
    def token_dim(self) -> int:
        return self.embed_dim or self.num_inputs + self.num_outputs

    def _kinds(self) -> tuple[Kind, ...]:
        kinds = self.attention
        return (kinds,) * self.num_layers if isinstance(kinds, str) else tuple(kinds)

    def setup(self):
        kinds = self._kinds()
        if len(kinds) != self.num_layers:
            raise ValueError(f"attention names {len(kinds)} layers, not {self.num_layers}")
        if self.tied and len(set(kinds)) > 1:
            raise ValueError("tied layers cannot differ in their attention")

        def block(layer):
            return Block(
                num_outputs=self.num_outputs,
                num_heads=self.num_heads,
                head_dim=self.head_dim or self.token_dim,
                kind=kinds[layer],
                mlp_dim=self.mlp_dim,
                norm_attention=self.layer_norm and (self.tied or layer > 0),
                norm_mlp=self.layer_norm,
                token_clip=self.token_clip,
                damping=self.damping,
                update=self.update,
                init_scale=self.init_scale,
                name=f"block_{layer}",
            )

        self.blocks = [block(layer) for layer in range(1 if self.tied else self.num_layers)]
        init = nn.initializers.variance_scaling(self.init_scale, "fan_in", "truncated_normal")
        if self.embed_dim:
            self.embed = nn.Dense(self.embed_dim, use_bias=False, kernel_init=init)
        if self.input_mlp_dim:
            self.input_mlp = Mlp(self.input_mlp_dim, use_bias=True, init_scale=self.init_scale)
        if self.initial_weights:
            self.start = self.param(
                "start", nn.initializers.zeros, (self.num_outputs, self.num_inputs)
            )

    def tokens(self, prompt: Prompt):
        """The N context tokens followed by the Q query tokens, [B, N + Q, E]."""
        context_BNE = jnp.concatenate([prompt.x, prompt.y], axis=-1)
        shape_BQK = (*prompt.x_query.shape[:2], self.num_outputs)
        y_BQK = jnp.zeros(shape_BQK, prompt.x_query.dtype)
        if self.initial_weights:
            y_BQK = -jnp.einsum("bqd,kd->bqk", prompt.x_query, self.start)
        query_BQE = jnp.concatenate([prompt.x_query, y_BQK], axis=-1)
        tokens = jnp.concatenate([context_BNE, query_BQE], axis=1)
        if self.embed_dim:
            tokens = self.embed(tokens)
        if self.input_mlp_dim:
            tokens = tokens + self.input_mlp(tokens)
        return tokens

    def __call__(
        self, prompt: Prompt, all_layers: bool = False
    ) -> Float[Array, "B Q K"] | Float[Array, "L B Q K"]:
        """Predictions for the queries, of the last layer or of every layer."""
        tokens, num_context = self.tokens(prompt), prompt.x.shape[1]
        num_queries = prompt.x_query.shape[1]

        def read(tokens):
            return -tokens[:, -num_queries:, -self.num_outputs :]

        tokens, below_LBQK = self._lower_layers(tokens, num_context, read)
        # After the last layer the context tokens are not needed.
        last = read(self.blocks[-1](tokens, num_context, only_queries=True))
        return jnp.concatenate([below_LBQK, last[None]]) if all_layers else last

    def _lower_layers(self, tokens, num_context, read):
        """Tokens after all layers but the last, and `read` of those after each, [L - 1, ...]."""
        lower = [self.blocks[0 if self.tied else layer] for layer in range(self.num_layers - 1)]
        alike = self.tied or (len(set(self._kinds())) == 1 and not self.layer_norm)
        if self.is_initializing() or not alike or len(lower) < 2:
            outputs = []
            for block in lower:
                tokens = block(tokens, num_context)
                outputs.append(read(tokens))
            return tokens, jnp.stack(outputs) if outputs else read(tokens)[None][:0]

        # Blocks that differ only in their parameters are scanned, so that a deep model compiles as
        # fast as a shallow one. Each block keeps its own parameters, which are stacked here.
        pure = lower[0].clone(parent=None, name=None)

        def advance(tokens, params):
            tokens = cast(Array, pure.apply({"params": params}, tokens, num_context))
            return tokens, read(tokens)

        if self.tied:
            params = lower[0].variables["params"]
            return jax.lax.scan(
                lambda tokens, _: advance(tokens, params), tokens, length=len(lower)
            )
        stacked = jax.tree.map(
            lambda *leaves: jnp.stack(leaves), *(block.variables["params"] for block in lower)
        )
        return jax.lax.scan(advance, tokens, stacked)
