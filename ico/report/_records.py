"""What a study found: arrays with named axes, and ways to pick among them.

Dimension key: S seeds, T tasks, X positions of a curve.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, SupportsFloat

import numpy as np

# What names a record. Anything else is measured.
Axis = str | bool | int | float | None


class Missing(LookupError):
    """A record that a run did not make, so that what is said of it cannot be judged or drawn.

    Fields:
      name: of the sort of record, or of the value, that no record of the run has; "" if the run has
        some of that name, but not those asked for.
    """

    def __init__(self, message: str, name: str = ""):
        super().__init__(message)
        self.name = name


@dataclasses.dataclass(frozen=True)
class Record:
    """One thing that was measured: what it is of, and its numbers.

    Fields:
      name: the sort of record, "" if a study has one sort alone.
      axes: axis -> string, number, bool or None.
      values: name -> array; by convention [S, T] or [T] for what a claim is about, [S, X] or [X]
        for curves.
    """

    name: str
    axes: Mapping[str, Axis]
    values: Mapping[str, np.ndarray]

    def __getitem__(self, name: str) -> Any:
        """An axis or a value by its name.

        Raises:
          KeyError: the record has neither; the message says what it has.
        """
        if name in self.values:
            return self.values[name]
        if name in self.axes:
            return self.axes[name]
        raise KeyError(f"{self.describe()} has no {name!r}, but {[*self.axes, *self.values]}")

    def __contains__(self, name: object) -> bool:
        return name in self.values or name in self.axes

    def get(self, name: str, default: Any = None) -> Any:
        """As indexing, with a default."""
        return self[name] if name in self else default

    def describe(self) -> str:
        """The record in words, for messages."""
        axes = ", ".join(f"{axis}={value!r}" for axis, value in self.axes.items())
        return f"record {self.name!r} ({axes})" if self.name else f"record ({axes})"


def record(name: str = "", /, **fields: Any) -> Record:
    """A record: strings, numbers, bools and None are axes; arrays are values.

        yield lab.record(learner="gradient descent", depth=5, loss=loss_ST)
        yield lab.record("curve", depth=5, step=step_X, loss=loss_SX)

    A number that was measured is an array, too: a NumPy scalar, `np.asarray(error)`.

    Raises:
      TypeError: a value that is no array of numbers, bools or strings.
    """
    axes: dict[str, Axis] = {}
    values: dict[str, np.ndarray] = {}
    for field, value in fields.items():
        if field == "failure_rate":  # a number or nothing, and never an axis
            if value is not None:
                values[field] = np.array(value, float)
            continue
        plain = value is None or isinstance(value, str | bool | int | float)
        if plain and not isinstance(value, np.generic):  # numpy.float64 is a float, and measured
            axes[field] = value
            continue
        array = np.array(value)  # a copy: the caller may use the buffer again
        if array.dtype.kind == "O":
            raise TypeError(f"record field {field!r} is {type(value).__name__}, which is no array")
        if "/" in field:
            raise TypeError(f"record field {field!r}: names have no slash")
        # bfloat16 and its kin are void to .npz, which would lose what they are.
        values[field] = array.astype(np.float32) if array.dtype.kind == "V" else array
    return Record(name, axes, values)


class Records:
    """The records of a study, in the order in which it gave them.

    records.one(learner="gradient descent")["loss"]      # [S, T]
    records["curve"].where(depth=5)                      # those of one sort, of one depth
    for depth in records.axis("depth"): ...
    """

    def __init__(self, records: Iterable[Record] = (), notes: Iterable[str] = ()):
        self._records, self.notes = tuple(records), tuple(notes)

    def __iter__(self) -> Iterator[Record]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, name: str) -> Records:
        """The records of one sort; raises Missing if there is none."""
        found = [record for record in self if record.name == name]
        if not found:
            raise Missing(f"this run has no record {name!r}", name)
        return Records(found)

    def where(self, **axes: Any) -> Records:
        """The records with these values of these axes; several values of one as a list or set.

        Raises:
          KeyError: no record has an axis of that name.
        """
        found = list(self)
        for axis, wanted in axes.items():
            if len(self) and not any(axis in record.axes for record in self):
                known = sorted({name for record in self for name in record.axes})
                raise KeyError(f"no record has an axis {axis!r}; there are {known}")
            several = wanted if isinstance(wanted, list | set | frozenset) else [wanted]
            found = [r for r in found if axis in r.axes and _among(r.axes[axis], several)]
        return Records(found)

    def one(self, **axes: Any) -> Record:
        """The only record with these values of these axes.

        Raises:
          Missing: there is none (the run left it out).
          ValueError: there are several.
        """
        found = self.where(**axes)
        if not len(found):
            words = ", ".join(f"{axis}={value!r}" for axis, value in axes.items()) or "at all"
            raise Missing(f"this run has no record with {words}")
        if len(found) > 1:
            different = [axis for axis in found.axes if len(found.axis(axis)) > 1]
            raise ValueError(f"{len(found)} records with {axes}; they differ in {different}")
        return found._records[0]

    @property
    def axes(self) -> list[str]:
        """Names of all axes, in the order of their first appearance."""
        return list(dict.fromkeys(axis for record in self for axis in record.axes))

    def axis(self, name: str) -> list[Any]:
        """The different values of an axis, in the order of their first appearance."""
        found = {(isinstance(r.axes[name], bool), r.axes[name]): r for r in self if name in r.axes}
        return [value for _, value in found]

    def stack(self, value: str) -> np.ndarray:
        """A value of all these records, stacked on a new first axis."""
        return np.stack([record.values[value] for record in self])

    def failure_rate(self) -> float | None:
        """The largest "failure_rate" that these records name, None if they name none."""
        rates: list[SupportsFloat] = [r["failure_rate"] for r in self if "failure_rate" in r]
        return max((float(rate) for rate in rates), default=None)


def _among(value: Any, several: Iterable[Any]) -> bool:
    # True == 1 in Python; here a bool is no number.
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in several)
