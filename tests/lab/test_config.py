"""Ranges stand in types: what is inside passes, what is outside is refused by its name."""

import dataclasses
import math
import typing
from typing import Annotated

import hypothesis
import hypothesis.strategies as st
import pytest

from ico import lab
from ico.lab._config import Range, validate


class Inner(lab.Config):
    rate: lab.Positive = 0.1


class Config(lab.Config):
    """An example."""

    count: lab.Count = 1
    natural: lab.Natural = 0
    share: lab.Share = 0.5
    rows: Annotated[int, lab.Range(1, 400)] = 40
    depths: lab.Distinct[lab.Count] = (2, 5)
    rates: tuple[lab.Share, ...] = ()
    name: str = "any"
    maybe: lab.Positive | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)

    def check(self):
        if self.count > self.rows:
            raise ValueError(f"count must be at most rows, not {self.count}")


def test_a_subclass_is_a_frozen_hashable_dataclass():
    config = Config(count=3)
    assert config == Config(count=3) and hash(config) == hash(Config(count=3))
    assert dataclasses.replace(config, count=4).count == 4
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.count = 5
    config.validate()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"count": 0}, "count must be at least 1, not 0"),
        ({"natural": -1}, "natural must be at least 0"),
        ({"share": 1.1}, "share must be at least 0 and at most 1"),
        ({"share": math.nan}, "share must be finite"),
        ({"rows": 401}, "rows must be at least 1 and at most 400"),
        ({"depths": ()}, "depths must name at least one"),
        ({"depths": (2, 2)}, "depths names a value twice"),
        ({"depths": (0,)}, "depths must be at least 1"),
        ({"rates": (0.5, -1.0)}, "rates must be at least 0"),
        ({"maybe": 0.0}, "maybe must be positive"),
        ({"inner": Inner(rate=0.0)}, "inner.rate must be positive"),
        ({"inner": Inner(rate=math.inf)}, "inner.rate must be finite"),
        ({"count": 50}, "count must be at most rows"),
    ],
)
def test_what_is_out_of_range_is_named(changes, words):
    with pytest.raises(ValueError, match=words.replace("(", r"\(")):
        Config(**changes).validate()


@hypothesis.given(
    st.floats(-5, 5), st.floats(-5, 5), st.booleans(), st.booleans(), st.floats(-6, 6)
)
def test_a_range_is_its_inequalities(a, b, open_low, open_high, value):
    low, high = sorted((a, b))
    inside = (value > low if open_low else value >= low) and (
        value < high if open_high else value <= high
    )
    found = Range(low, high, open_low, open_high).complaint(value)
    assert (found is None) == inside


def test_annotations_as_strings_serve_too():
    namespace = {"__name__": __name__, "lab": lab}
    code = "from __future__ import annotations\nclass Late(lab.Config):\n    n: lab.Count = 0\n"
    exec(code, namespace)
    late = namespace["Late"]()
    globals()["lab"] = lab  # where the strings are resolved
    assert typing.get_type_hints(type(late), {"lab": lab}, include_extras=True)
    with pytest.raises(ValueError, match="n must be at least 1"):
        validate(late)
