"""What a decoder looks like."""

import dataclasses
import math
from typing import Any, Literal

from ico.lm._errors import WeightFileError

Family = Literal["llama", "gemma3", "gpt2"]


@dataclasses.dataclass(frozen=True)
class DecoderConfig:
    """A decoder of the Llama, Gemma 3 or GPT-2 family. Frozen: a static argument of jit.

    Fields:
      family: decides norms, MLP, biases and positions (see the properties).
      vocab_size, dim, num_layers, num_heads, num_kv_heads, head_dim, mlp_dim: sizes.
      context_length: the longest sequence the model was made for; of GPT-2, a hard limit.
      norm_eps: epsilon of RMSNorm or LayerNorm.
      query_scale: multiplies the scores; 1/sqrt(head_dim) but in some Gemma sizes.
      frequencies: rotary angles per position [head_dim / 2], scalings applied; () for GPT-2.
      local_frequencies: the same for layers with a sliding window.
      rope_scale: multiplies rotary sines and cosines (YaRN's attention factor).
      window: a token of a local layer sees itself and the window - 1 tokens before it.
      local_layers: for each layer, whether it has the window.
      score_cap, logit_cap: x -> cap tanh(x / cap) on scores and logits; 0 is off.
      tied: the head is the embedding.
      attention_bias, mlp_bias: biases that some Llamas have; GPT-2 always has them.
    """

    family: Family
    vocab_size: int
    dim: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    context_length: int
    norm_eps: float
    query_scale: float
    frequencies: tuple[float, ...] = ()
    local_frequencies: tuple[float, ...] = ()
    rope_scale: float = 1.0
    window: int = 0
    local_layers: tuple[bool, ...] = ()
    score_cap: float = 0.0
    logit_cap: float = 0.0
    tied: bool = True
    attention_bias: bool = False
    mlp_bias: bool = False
    # What config.json said of rotary positions, kept so that `save` can say it again.
    rope: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        sizes = ("vocab_size", "dim", "num_layers", "num_heads", "num_kv_heads", "head_dim",
                 "mlp_dim", "context_length")  # fmt: skip
        for name in sizes:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or not 0 < value < 2**31:
                raise WeightFileError(f"{name} must be a positive integer, not {value!r}")
        if self.num_heads % self.num_kv_heads:
            raise WeightFileError(
                f"num_heads ({self.num_heads}) must be a multiple of "
                f"num_kv_heads ({self.num_kv_heads})"
            )
        if self.frequencies and self.head_dim % 2:
            raise WeightFileError(f"rotary positions need an even head_dim, not {self.head_dim}")
        if self.family == "gemma3":
            if len(self.local_layers) != self.num_layers:
                raise WeightFileError(
                    f"{len(self.local_layers)} layers are said to be local or not, of "
                    f"{self.num_layers}"
                )
            if isinstance(self.window, bool) or not isinstance(self.window, int) or self.window < 1:
                raise WeightFileError(f"a window must be a positive integer, not {self.window!r}")
        for name in ("norm_eps", "query_scale", "rope_scale"):
            if not math.isfinite(getattr(self, name)):
                raise WeightFileError(f"{name} must be finite")

    @property
    def gated(self) -> bool:
        """Whether the MLP is act(gate) * up."""
        return self.family != "gpt2"

    @property
    def embed_scale(self) -> float:
        """What embeddings are multiplied with: sqrt(dim) in Gemma."""
        return math.sqrt(self.dim) if self.family == "gemma3" else 1.0
