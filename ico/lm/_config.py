"""The configuration of a decoder: its sizes and the choices of its architecture."""

import dataclasses
import math
from typing import Any, Literal, get_args

from ico.lm._errors import WeightFileError

Norm = Literal["rms", "layer"]
Activation = Literal["silu", "gelu_tanh"]

_SIZES = (
    "vocab_size",
    "dim",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "mlp_dim",
    "context_length",
)
_FINITE = ("norm_eps", "query_scale", "rope_scale", "embed_scale", "score_cap", "logit_cap")
_NOT_NEGATIVE = ("norm_eps", "score_cap", "logit_cap")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """Everything that the decoder computes with, apart from the parameters.

    Frozen and hashable, so that it can be a static argument of `jax.jit`. The defaults are those
    of Llama. `family` decides how files are read and written; the computation never looks at it.

    Fields:
      family: a key of `ico.lm.families.FAMILIES`.
      vocab_size, dim, num_layers, num_heads, num_kv_heads, head_dim, mlp_dim: sizes.
      context_length: the longest sequence that the model was made for; a hard limit if positions
        are learned.
      norm_eps: epsilon of the norms.
      query_scale: factor of the attention scores; 1/sqrt(head_dim) in most models.
      norm: "rms" (RMSNorm, a scale only) or "layer" (LayerNorm, scale and bias).
      norm_scale_in_float32: multiply with the norm's scale before rounding to the type of the
        parameters (Gemma) instead of after it (Llama). Equal for float32 parameters.
      activation: of the MLP; "gelu_tanh" is GELU in its tanh approximation.
      gated_mlp: down(activation(gate(x)) * up(x)) instead of down(activation(up(x))).
      qk_norm: norm queries and keys, head by head, before rotary positions are applied.
      post_norms: norm the output of attention and of the MLP before it is added to the residual
        stream, in addition to their inputs.
      qkv_bias, output_bias, mlp_bias: biases of query, key and value; of attention's output; of
        the MLP.
      embed_scale: factor of the token embeddings.
      learned_positions: add a learned vector for each position to the token embeddings.
      frequencies: rotary angles per position [head_dim / 2], with any context extension applied;
        () for none.
      local_frequencies: the same for layers with a sliding window; () if they do not differ.
      rope_scale: factor of the rotary sines and cosines (YaRN's attention factor).
      window: in a local layer a token attends to itself and to the window - 1 tokens before it.
      local_layers: for each layer, whether it has the window; () if none has.
      score_cap, logit_cap: x -> cap tanh(x / cap) on attention scores and on logits; 0 is off.
      tied: the head is the embedding.
      rope: what config.json said about rotary positions, kept so that `save` can write it again;
        without it `save` finds the rotary base in the frequencies.

    Raises:
      WeightFileError: a size that is not a positive integer, a number that is not finite or has
        the wrong sign, or fields that contradict each other.
    """

    family: str = "llama"
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
    norm: Norm = "rms"
    norm_scale_in_float32: bool = False
    activation: Activation = "silu"
    gated_mlp: bool = True
    qk_norm: bool = False
    post_norms: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    embed_scale: float = 1.0
    learned_positions: bool = False
    frequencies: tuple[float, ...] = ()
    local_frequencies: tuple[float, ...] = ()
    rope_scale: float = 1.0
    window: int = 0
    local_layers: tuple[bool, ...] = ()
    score_cap: float = 0.0
    logit_cap: float = 0.0
    tied: bool = True
    rope: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self):
        for name in _SIZES:
            if not _is_size(getattr(self, name)):
                raise WeightFileError(
                    f"{name} must be a positive integer, not {getattr(self, name)!r}"
                )
        if self.num_heads % self.num_kv_heads:
            raise WeightFileError(
                f"num_heads ({self.num_heads}) must be a multiple of "
                f"num_kv_heads ({self.num_kv_heads})"
            )
        for name, allowed in (("norm", get_args(Norm)), ("activation", get_args(Activation))):
            if getattr(self, name) not in allowed:
                raise WeightFileError(
                    f"{name} must be one of {', '.join(allowed)}, not {getattr(self, name)!r}"
                )
        if self.frequencies and self.head_dim % 2:
            raise WeightFileError(f"rotary positions need an even head_dim, not {self.head_dim}")
        for name in ("frequencies", "local_frequencies"):
            angles = getattr(self, name)
            if angles and len(angles) != self.head_dim // 2:
                raise WeightFileError(
                    f"{name} must be head_dim / 2 = {self.head_dim // 2} angles, not {len(angles)}"
                )
            if not all(map(math.isfinite, angles)):
                raise WeightFileError(f"{name} must be finite")
        if self.window or self.local_layers:
            if len(self.local_layers) != self.num_layers:
                raise WeightFileError(
                    f"local_layers has {len(self.local_layers)} entries, but there are "
                    f"{self.num_layers} layers"
                )
            if not _is_size(self.window):
                raise WeightFileError(f"window must be a positive integer, not {self.window!r}")
        for name in _FINITE:
            if not math.isfinite(getattr(self, name)):
                raise WeightFileError(f"{name} must be finite")
        for name in _NOT_NEGATIVE:
            if getattr(self, name) < 0:
                raise WeightFileError(f"{name} must not be negative, but is {getattr(self, name)}")


def _is_size(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31
