"""Rotary positions: angles per position, with the published methods of context extension."""

import dataclasses
import math
from typing import Any

import numpy as np

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError, one_line

_LLAMA3_KEYS = (
    "factor",
    "low_freq_factor",
    "high_freq_factor",
    "original_max_position_embeddings",
)


def rope_frequencies(
    head_dim: int, theta: float, scaling: dict[str, Any]
) -> tuple[tuple[float, ...], float]:
    """Rotary angles per position, with a published method of context extension.

    Args:
      head_dim: width of a head, even.
      theta: the base, > 0.
      scaling: `rope_type`, one of default, linear, llama3 and yarn, and the numbers that it needs,
        named as in config.json.

    Returns:
      Angles per position [head_dim / 2], and the factor of sines and cosines.

    Raises:
      WeightFileError: an unknown method, or one of its numbers is missing or makes no sense.
    """
    kind = scaling.get("rope_type", scaling.get("type", "default")) or "default"
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused below
            frequencies, scale = _frequencies(head_dim, theta, kind, scaling)
    except KeyError as error:
        raise WeightFileError(f"rotary scaling {kind!r} lacks {error}") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError(
            f"rotary scaling {kind!r} makes no sense: {one_line(error)}"
        ) from None
    if not (np.isfinite(frequencies).all() and 0 < scale < math.inf):
        raise WeightFileError(f"rotary scaling {kind!r} gives angles that are not finite")
    return tuple(frequencies.tolist()), scale


def _frequencies(head_dim: int, theta: float, kind: str, scaling: dict[str, Any]):
    """`rope_frequencies` before its checks."""
    if not (isinstance(theta, (int, float)) and theta > 0 and math.isfinite(theta)):
        raise WeightFileError(f"rotary base must be positive, not {theta!r}")
    plain = float(theta) ** (-np.arange(0, head_dim, 2) / head_dim)
    if kind in ("default", "none"):
        return plain, 1.0
    factor = float(scaling["factor"])
    if not (factor > 0 and math.isfinite(factor)):
        raise WeightFileError(f"rotary scaling factor must be positive, not {factor}")
    if kind == "linear":
        return plain / factor, 1.0
    if kind == "llama3":
        _, low, high, original = (float(scaling[key]) for key in _LLAMA3_KEYS)
        # Low frequencies are divided by the factor, high ones kept, those between blended.
        blend = np.clip((original * plain / (2 * math.pi) - low) / (high - low), 0, 1)
        return (1 - blend) * plain / factor + blend * plain, 1.0
    if kind == "yarn":
        return _yarn(plain, theta, factor, scaling)
    raise WeightFileError(
        f"rotary scaling {kind!r} is not supported (default, linear, llama3, yarn)"
    )


def _yarn(plain, theta: float, factor: float, scaling):
    """YaRN (Peng et al. 2023, arXiv 2309.00071).

    Low frequencies are divided by the factor, high ones kept, with a ramp between. The attention
    factor is 0.1 ln(factor) + 1; DeepSeek's `mscale` and `mscale_all_dim`, if both are there,
    multiply the logarithm in a numerator and in a denominator, as in transformers.
    """
    original = float(scaling["original_max_position_embeddings"])
    fast, slow = float(scaling.get("beta_fast") or 32), float(scaling.get("beta_slow") or 1)
    head_dim = 2 * len(plain)

    def dimension(rotations):
        # The pair of coordinates whose angle makes this many rotations over the original context.
        return head_dim * math.log(original / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(fast), dimension(slow)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    ramp = np.clip((np.arange(len(plain)) - low) / max(high - low, 1e-3), 0, 1)
    scale = scaling.get("attention_factor")
    if scale is None:
        logarithm = 0.1 * math.log(max(factor, 1))
        above, below = scaling.get("mscale"), scaling.get("mscale_all_dim")
        if above and below:
            scale = (above * logarithm + 1) / (below * logarithm + 1)
        else:
            scale = logarithm + 1
    return ramp * plain / factor + (1 - ramp) * plain, float(scale)


def rope_base(frequencies: tuple[float, ...]) -> float:
    """The base of plain rotary angles; of others, and of a single angle, some positive number."""
    num, last = len(frequencies), frequencies[-1] if frequencies else 0.0
    if num < 2 or not 0 < last < 1:
        return 1e4
    base = last ** (-num / (num - 1))
    # Bases are round numbers, which the power misses by its rounding.
    return float(round(base)) if math.isclose(base, round(base), rel_tol=1e-6) else base


def with_rope_factors(config: DecoderConfig, factors: np.ndarray) -> DecoderConfig:
    """The configuration with its rotary frequencies divided by the factors of a GGUF file.

    GGUF describes Llama 3's context extension by these factors [head_dim / 2] only, but `save`
    has to write the numbers they were computed from. They are recognised if they are those of the
    published models (factor 8 or 32).
    """
    divided = np.asarray(config.frequencies) / factors
    rope = dict(config.rope)
    for factor in (8.0, 32.0):
        scaling = {
            "rope_type": "llama3",
            "factor": factor,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
        known, _ = rope_frequencies(config.head_dim, rope["rope_theta"], scaling)
        if np.allclose(known, divided, rtol=1e-5):
            rope |= scaling
            divided = np.asarray(known)  # the file holds the factors in float32
            break
    else:
        rope["rope_type"] = "factors"  # which no config.json can describe
    return dataclasses.replace(
        config, frequencies=tuple(divided.tolist()), rope=tuple(sorted(rope.items()))
    )
