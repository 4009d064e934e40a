"""What a paper says, what we measured, and the rule that judges one by the other."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any, Literal, SupportsFloat, SupportsInt, get_args

# A sentence of the paper's abstract; one of its figures, tables or sections; a control of ours.
Kind = Literal["core", "paper", "ours"]
Band = tuple[float | int | None, float | int | None]

_ID = re.compile(r"[a-z0-9_]+\.[a-z0-9_]+")


@dataclasses.dataclass(frozen=True)
class Claim:
    """A sentence of a paper, and the band the measurement must fall in, fixed before any run.

    Args:
      id: study name, dot, short name, in lower case: "one_layer.loss".
      statement: the sentence claimed, in plain words.
      source: paper, section, figure or equation.
      unit: "nats", "half squared error", "ratio", "cosine" or "".
      band: (low, high), both ends included; None leaves an end open.
      kind: "core" (a sentence of the paper's abstract), "paper" (its figures and tables) or "ours"
        (a control or a diagnostic).
      paper_value: the paper's own number, in the same unit, where it prints one.

    Raises:
      ValueError: a malformed id, an unknown kind, a band open at both ends, reversed, or not
        finite.
    """

    id: str
    statement: str
    source: str
    unit: str
    band: Band
    kind: Kind = "paper"
    paper_value: float | int | None = None

    def __post_init__(self):
        if self.kind not in get_args(Kind):
            raise ValueError(f"claim {self.id}: kind must be one of {get_args(Kind)}")
        if not _ID.fullmatch(self.id):
            raise ValueError(f"claim id {self.id!r}: want 'study.name' in a-z, 0-9 and _")
        low, high = self.band
        ends = [end for end in self.band if end is not None]
        if not ends:
            raise ValueError(f"claim {self.id}: a band open at both ends claims nothing")
        if not all(math.isfinite(end) for end in ends):
            raise ValueError(f"claim {self.id}: band {self.band} is not finite; use None if open")
        if low is not None and high is not None and low > high:
            raise ValueError(f"claim {self.id}: band {self.band} has low > high")

    @property
    def study(self) -> str:
        """The study that measures this claim: the id before the dot."""
        return self.id.split(".")[0]


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What was measured for one claim. Scalars of NumPy and JAX become plain numbers.

    Args:
      value: the number, in the claim's unit.
      ci95: 95% interval (low, high), or None for a deterministic identity.
      n_seeds: trained models behind the number (0 if nothing was trained).
      n_tasks: evaluation tasks behind the number.
      note: anything the reader must know, such as what else was tried.
      failure_rate: share of trainings that died and were begun anew, where that was looked at.
      claim: the claim's id; a study fills it in.
    """

    value: SupportsFloat
    ci95: tuple[SupportsFloat, SupportsFloat] | None
    n_seeds: SupportsInt
    n_tasks: SupportsInt
    note: str = ""
    failure_rate: SupportsFloat | None = None
    claim: str = ""

    def __post_init__(self):
        plain: dict[str, Any] = {"value": float(self.value)}
        plain |= {"n_seeds": int(self.n_seeds), "n_tasks": int(self.n_tasks)}
        if self.ci95 is not None:
            low, high = self.ci95
            plain["ci95"] = (float(low), float(high))
        if self.failure_rate is not None:
            plain["failure_rate"] = float(self.failure_rate)
        for name, number in plain.items():
            object.__setattr__(self, name, number)  # frozen, so the plain way is closed


def unjudged(note: str) -> Measurement:
    """What stands for a measurement that a run cannot make: inconclusive whatever the band."""
    return Measurement(math.nan, (math.nan, math.nan), 0, 0, note)


def verdict(claim: Claim, measurement: Measurement) -> str:
    """Judges a measurement: "reproduced", "not reproduced" or "inconclusive".

    The whole 95% interval must lie inside the band to reproduce, and wholly outside to refute.
    Without an interval the value alone decides. A value or an interval end that is not finite
    never reproduces.
    """
    if measurement.claim not in (claim.id, ""):
        raise ValueError(f"measurement of {measurement.claim} judged by claim {claim.id}")
    low = -math.inf if claim.band[0] is None else claim.band[0]
    high = math.inf if claim.band[1] is None else claim.band[1]
    value = float(measurement.value)
    if measurement.ci95 is None:
        inside = math.isfinite(value) and low <= value <= high
        return "reproduced" if inside else "not reproduced"
    bottom, top = map(float, measurement.ci95)
    if bottom > top:
        raise ValueError(f"measurement of {claim.id}: interval {measurement.ci95} is reversed")
    if all(map(math.isfinite, (value, bottom, top))) and low <= bottom and top <= high:
        return "reproduced"
    # A NaN end fails both comparisons, which leaves it inconclusive.
    return "not reproduced" if top < low or bottom > high else "inconclusive"
