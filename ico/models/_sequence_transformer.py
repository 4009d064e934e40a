"""Autoregressive transformers whose layers may be of any kind: on vectors, and on tokens.

Source: 2309.05858, sections 3 to 5 and appendix.

Dimension key: B batch, T positions, I inputs, O outputs, E token width, P width of the position
code, L layers, H heads, A head width, V vocabulary.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from ico.models._alternating import sinusoidal_positions
from ico.models._mixer import Mixer, MixerKind


class SequenceBlock(nn.Module):
    """Attention of any kind and, if `mlp_dim` > 0, an MLP; each with a residual.

    `layer_norm` puts one before each; `token_clip` > 0 clips every coordinate after the block, as
    the authors of 2309.05858 do.
    """

    attention: Mixer
    mlp_dim: int = 0
    layer_norm: bool = False
    token_clip: float = 0.0

    @nn.compact
    def __call__(self, x_BTE, code_TP=None, segment_ids=None):
        normed = nn.LayerNorm(name="attention_norm")(x_BTE) if self.layer_norm else x_BTE
        x_BTE = x_BTE + self.attention(normed, code_TP, segment_ids)
        if self.mlp_dim:
            normed = nn.LayerNorm(name="mlp_norm")(x_BTE) if self.layer_norm else x_BTE
            h_BTM = jax.nn.gelu(self._dense(normed, self.mlp_dim, "up"))
            x_BTE = x_BTE + self._dense(h_BTM, x_BTE.shape[-1], "down")
        return jnp.clip(x_BTE, -self.token_clip, self.token_clip) if self.token_clip else x_BTE

    def _dense(self, x, features, name):
        std = self.attention.init_std
        init = nn.initializers.normal(x.shape[-1] ** -0.5 if std is None else std)
        return nn.Dense(features, use_bias=False, kernel_init=init, name=name)(x)


class SequenceTransformer(nn.Module):
    """Predicts the next vector of a sequence at every position.

    Fields:
      kinds: the kind of each layer; ("softmax", "mesa") is the paper's hybrid.
      num_inputs, num_outputs: I and O.
      embed_dim: E, width of a linear embedding, with a linear read-out. With 0 the tokens are the
        inputs themselves (constructed tokens, say), and their first O coordinates the prediction.
      num_heads, head_dim: of every layer.
      position_dim: width of a sinusoidal code that is concatenated to the tokens for keys and
        queries of the first layer; 0 is none.
      mlp_dim: hidden width of the MLP of each block; 0 is none.
      layer_norm, token_clip: see `SequenceBlock`.
      normalise: whether keys and queries have length one, in all layers but the first.
      free_lam: see `Mixer`.
      init_std: standard deviation of all weights. The paper's: 2e-4 on constructed tokens, 0.05.
      chunk_size: of the layers computed in chunks.
    """

    kinds: tuple[MixerKind, ...]
    num_inputs: int = 10
    num_outputs: int = 10
    embed_dim: int = 40
    num_heads: int = 4
    head_dim: int = 20
    position_dim: int = 40
    mlp_dim: int = 0
    layer_norm: bool = False
    token_clip: float = 0.0
    normalise: bool = False
    free_lam: bool = False
    init_std: float = 0.05
    chunk_size: int = 64

    def setup(self):
        if not self.kinds:
            raise ValueError("kinds must name at least one layer")
        if not self.embed_dim and self.num_outputs > self.num_inputs:
            raise ValueError(
                f"without embedding, num_outputs ({self.num_outputs}) must be at most num_inputs "
                f"({self.num_inputs})"
            )
        init = nn.initializers.normal(self.init_std)
        if self.embed_dim:
            self.embed = nn.Dense(self.embed_dim, use_bias=False, kernel_init=init)
            self.readout = nn.Dense(self.num_outputs, use_bias=False, kernel_init=init)
        self.blocks = [
            SequenceBlock(
                Mixer(
                    kind,
                    self.num_heads,
                    self.head_dim,
                    normalise=self.normalise and layer > 0,
                    free_lam=self.free_lam,
                    init_std=self.init_std,
                    chunk_size=self.chunk_size,
                    parent=None,
                ),
                mlp_dim=self.mlp_dim,
                layer_norm=self.layer_norm,
                token_clip=self.token_clip,
                name=f"block_{layer}",
            )
            for layer, kind in enumerate(self.kinds)
        ]

    def hidden(self, x_BTI: Float[Array, "B T I"]) -> list[Float[Array, "B T E"]]:
        """The tokens before the first layer and after each, L + 1 arrays: for probes."""
        tokens = [self.embed(x_BTI) if self.embed_dim else x_BTI]
        for layer, block in enumerate(self.blocks):
            code_TP = None
            if layer == 0 and self.position_dim:
                code_TP = jnp.asarray(sinusoidal_positions(x_BTI.shape[1], self.position_dim))
            tokens.append(block(tokens[-1], code_TP))
        return tokens

    def read(self, tokens_BTE: Float[Array, "B T E"]) -> Float[Array, "B T O"]:
        """The prediction in the tokens of any layer."""
        return self.readout(tokens_BTE) if self.embed_dim else tokens_BTE[..., : self.num_outputs]

    def __call__(self, x_BTI: Float[Array, "B T I"]) -> Float[Array, "B T O"]:
        """Predictions of what follows each position.

        Raises:
          ValueError: no layer, or more outputs than a model without embedding can have.
        """
        return self.read(self.hidden(x_BTI)[-1])


class TokenTransformer(nn.Module):
    """A language model whose layers may be of any kind: logits of the next token.

    LayerNorm comes before every mixer and MLP and before the head, which is the transposed
    embedding. Whatever the kind, keys and queries are normalised to length one, and every head's
    output to unit mean square.

    Fields:
      vocab_size: V.
      kinds: the kind of each layer.
      dim: E, the width of the tokens.
      num_heads, head_dim: of every layer.
      mlp_dim: hidden width of the MLPs; 0 is none.
      conv_width: see `Mixer`; in every layer.
      position_dim: see `SequenceTransformer`.
      gate_bias: see `Mixer`.
      chunk_size: of the layers computed in chunks.
    """

    vocab_size: int
    kinds: tuple[MixerKind, ...]
    dim: int = 128
    num_heads: int = 4
    head_dim: int = 32
    mlp_dim: int = 0
    conv_width: int = 4
    position_dim: int = 0
    gate_bias: float = 6.0
    chunk_size: int = 64

    def setup(self):
        if not self.kinds:
            raise ValueError("kinds must name at least one layer")
        self.embedding = self.param(
            "embedding", nn.initializers.normal(0.02), (self.vocab_size, self.dim)
        )
        self.blocks = [
            SequenceBlock(
                Mixer(
                    kind,
                    self.num_heads,
                    self.head_dim,
                    normalise=True,
                    conv_width=self.conv_width,
                    norm_output=True,
                    gate_bias=self.gate_bias,
                    chunk_size=self.chunk_size,
                    parent=None,
                ),
                mlp_dim=self.mlp_dim,
                layer_norm=True,
                name=f"block_{layer}",
            )
            for layer, kind in enumerate(self.kinds)
        ]
        self.norm = nn.LayerNorm()

    def __call__(
        self, ids_BT: Int[Array, "B T"], segment_ids: Int[Array, "B T"] | None = None
    ) -> Float[Array, "B T V"]:
        """Logits of the token after each position.

        Args:
          ids_BT: token ids.
          segment_ids: equal numbers for positions of one packed sequence; not with a position
            code.

        Raises:
          ValueError: no layer, or segments with a position code.
        """
        if segment_ids is not None and self.position_dim:
            raise ValueError("a position code would run on across packed sequences")
        x_BTE = self.embedding[ids_BT]
        for layer, block in enumerate(self.blocks):
            code_TP = None
            if layer == 0 and self.position_dim:
                code_TP = jnp.asarray(sinusoidal_positions(ids_BT.shape[1], self.position_dim))
            x_BTE = block(x_BTE, code_TP, segment_ids)
        return jnp.einsum("bte,ve->btv", self.norm(x_BTE), self.embedding)
