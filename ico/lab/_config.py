"""Configurations: frozen dataclasses whose ranges stand in their types.

    class Config(lab.Config):
        # Tasks a training step.
        batch_size: lab.Count = 256
        dropout: lab.Share = 0.1
        depths: lab.Distinct[lab.Count] = (2, 5, 10)
        rows: Annotated[int, lab.Range(1, 400)] = 40
        text: Literal["python_docs", "pydoc_topics"] = "python_docs"

The comment above a field is its line in `--help`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; an end that is `open` is not among them. None is unbounded."""

    low: float | int | None = None
    high: float | int | None = None
    open_low: bool = False
    open_high: bool = False

    def complaint(self, value: Any) -> str | None:
        """What is wrong with a value, or None."""
        if isinstance(value, float) and not math.isfinite(value):
            return f"must be finite, not {value}"
        low, high = self.low, self.high
        below = low is not None and (value <= low if self.open_low else value < low)
        above = high is not None and (value >= high if self.open_high else value > high)
        return f"must be {self}, not {value}" if below or above else None

    def __str__(self) -> str:
        if self.low == 0 and self.open_low and self.high is None:
            return "positive"
        lower = None if self.low is None else ("above " if self.open_low else "at least ")
        upper = None if self.high is None else ("below " if self.open_high else "at most ")
        words = [] if lower is None else [f"{lower}{self.low:g}"]
        return " and ".join(words + ([] if upper is None else [f"{upper}{self.high:g}"]))


class _Distinct:
    """At least one value, none of them twice."""

    def complaint(self, value: tuple) -> str | None:
        if not value:
            return "must name at least one"
        return f"names a value twice: {value}" if len(set(value)) != len(value) else None


Count = Annotated[int, Range(1)]  # 1, 2, 3 ...
Natural = Annotated[int, Range(0)]  # 0, 1, 2 ...
Share = Annotated[float, Range(0, 1)]  # 0 to 1, both included
Positive = Annotated[float, Range(0, open_low=True)]
NonNegative = Annotated[float, Range(0)]
# A tuple of at least one value, none of them twice: `depths: lab.Distinct[lab.Count] = (2, 5)`.
Distinct = Annotated[tuple[T, ...], _Distinct()]


@dataclass_transform(frozen_default=True)
class Config:
    """Base of an experiment's configuration: a subclass becomes a frozen dataclass by itself.

    Every field has a default, that of the preset `cpu`. Ranges stand in the types (`Count`,
    `Share`, `Positive`, `Annotated[int, lab.Range(1, 400)]` ...); what several fields have to fulfil together stands in
    `check`. A comment above a field is its line in `--help`.
    """

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        dataclasses.dataclass(frozen=True)(cls)

    def check(self) -> None:
        """For subclasses: raises ValueError("field must ...") where fields do not fit together."""

    def validate(self) -> None:
        """Raises ValueError, its first word the field, where a value is out of its range.

        Configurations inside this one are validated too, under "outer.inner".
        """
        validate(self)


def validate(config: Any, prefix: str = "") -> None:
    """`Config.validate`, for any dataclass."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        name, value = f"{prefix}{field.name}", getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            validate(value, f"{name}.")
        elif (complaint := _complaint(hints[field.name], value)) is not None:
            raise ValueError(f"{name} {complaint}")
    if isinstance(config, Config):
        try:
            config.check()
        except ValueError as error:
            raise ValueError(f"{prefix}{error}") from error


def _complaint(hint: Any, value: Any) -> str | None:
    """What the type's ranges say of a value; None if nothing."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        inner, *marks = typing.get_args(hint)
        if (found := _complaint(inner, value)) is not None or value is None:
            return found
        found = [m.complaint(value) for m in marks if isinstance(m, Range | _Distinct)]
        return next((words for words in found if words is not None), None)
    if origin in (typing.Union, types.UnionType) and value is not None:
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        return _complaint(kinds[0], value) if len(kinds) == 1 else None
    if origin is Literal and value not in typing.get_args(hint):
        return f"must be one of {', '.join(map(repr, typing.get_args(hint)))}, not {value!r}"
    if origin is tuple and isinstance(value, tuple):
        kinds = typing.get_args(hint)
        kinds = kinds[:1] * len(value) if kinds[-1:] == (Ellipsis,) else kinds
        found = [_complaint(kind, v) for kind, v in zip(kinds, value, strict=False)]
        return next((words for words in found if words is not None), None)
    return None
