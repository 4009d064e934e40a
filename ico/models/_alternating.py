"""A transformer on alternating tokens x_1, y_1, x_2, y_2, ..., x_query (2212.07677, Fig. 5).

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs, E token width, P width of
the position code, S context tokens (2 N).
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from ico.models._block import Block, Kind
from ico.types import Prompt, working_dtype


def sinusoidal_positions(length: int, width: int) -> np.ndarray:
    """Position codes [length, width]: sines and cosines of geometric wavelengths (Vaswani 2017)."""
    angles = np.arange(length)[:, None] * 10000.0 ** (-np.arange(0, width, 2) / width)
    codes = np.zeros((length, width), np.float32)
    codes[:, 0::2] = np.sin(angles)
    codes[:, 1::2] = np.cos(angles[:, : width // 2])
    return codes


class AlternatingTransformer(nn.Module):
    """Inputs and labels are separate tokens, told apart by a concatenated position code.

    A label token is (0, ..., 0, y). To take a gradient step the model must first bring y_i beside
    x_i: the copy that builds the constructed tokens. The prediction is minus the **change** of the
    query token's last K coordinates. (The authors' code reads the coordinates themselves, which
    start at a constant of the position code that their model has to learn to cancel.)

    Fields as in `LinearTransformer`; `position_dim` is the width of the position code. Every query
    stands at the position after the last pair, and no query sees another.
    """

    num_inputs: int = 10
    num_outputs: int = 1
    position_dim: int = 10
    num_heads: int = 1
    attention: tuple[Kind, ...] = ("softmax", "linear")
    init_scale: float = 0.01

    def setup(self):
        self.blocks = [
            Block(
                num_outputs=self.num_outputs,
                num_heads=self.num_heads,
                head_dim=self.num_inputs + self.position_dim,
                kind=kind,
                init_scale=self.init_scale,
                name=f"block_{layer}",
            )
            for layer, kind in enumerate(self.attention)
        ]

    def tokens(self, prompt: Prompt):
        """The 2 N context tokens followed by the Q query tokens, [B, 2 N + Q, E]."""
        B, N, D = prompt.x.shape
        y_BND = jnp.pad(prompt.y, ((0, 0), (0, 0), (D - self.num_outputs, 0)))
        context_BSD = jnp.stack([prompt.x, y_BND], axis=2).reshape(B, 2 * N, D)
        codes = jnp.asarray(sinusoidal_positions(2 * N + 1, self.position_dim), prompt.x.dtype)

        def place(tokens, codes_1TP):
            codes_BTP = jnp.broadcast_to(codes_1TP, (B, tokens.shape[1], codes_1TP.shape[2]))
            return jnp.concatenate([tokens, codes_BTP], axis=-1)

        context = place(context_BSD, codes[None, :-1])
        return jnp.concatenate([context, place(prompt.x_query, codes[None, -1:])], axis=1)

    def __call__(self, prompt: Prompt, all_layers: bool = False) -> Float[Array, "*L B Q K"]:
        """Predictions of the last layer [B, Q, K], or of every layer [L, B, Q, K]."""
        tokens, num_context = self.tokens(prompt), 2 * prompt.x.shape[1]
        start, predictions = tokens[:, num_context:, -self.num_outputs :], []
        for layer, block in enumerate(self.blocks):
            tokens = block(tokens, num_context, only_queries=layer + 1 == len(self.blocks))
            label = tokens[:, -start.shape[1] :, -self.num_outputs :]
            predictions.append(start - label)
        return jnp.stack(predictions) if all_layers else predictions[-1]

    def hidden(self, prompt: Prompt, layer: int) -> Float[Array, "B T E"]:
        """The tokens [B, 2 N + Q, E] that a layer (counted from 0) is given, for probing."""
        tokens = self.tokens(prompt)
        for block in self.blocks[:layer]:
            tokens = block(tokens, 2 * prompt.x.shape[1])
        return tokens

    def scores(self, prompt: Prompt, layer: int) -> Float[Array, "B H T S"]:
        """Attention of all tokens over the context tokens in a layer, [B, H, 2 N + Q, 2 N].

        Probabilities if the layer is softmax, inner products if it is linear; in float32 or better.
        """
        tokens_BTE = self.hidden(prompt, layer)
        tokens_BTE = tokens_BTE.astype(working_dtype(tokens_BTE))
        weights = self.blocks[layer].attention.variables["params"]
        q_BTHA = jnp.einsum("bte,hea->btha", tokens_BTE, weights["query"])
        k_BTHA = jnp.einsum("bte,hea->btha", tokens_BTE, weights["key"])
        scores = jnp.einsum("btha,bsha->bhts", q_BTHA, k_BTHA[:, : 2 * prompt.x.shape[1]])
        if self.attention[layer] == "softmax":
            return jax.nn.softmax(scores * q_BTHA.shape[-1] ** -0.5, axis=-1)
        return scores
