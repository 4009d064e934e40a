"""Taking turns, medians and rows."""

import operator
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

_COMPARE = {">=": operator.ge, "<=": operator.le}


class Row(NamedTuple):
    """One measured number.

    Fields:
      what, value, unit: what was measured, and its median over rounds.
      spread: lower and upper quartile over rounds, if there were several.
      goal: such as (">=", 230), or None where the number is for context alone.
    """

    what: str
    value: float
    unit: str
    spread: tuple[float, float] | None = None
    goal: tuple[str, float] | None = None

    @property
    def is_reached(self) -> bool:
        """Whether the median is on the right side of the goal."""
        return self.goal is None or _COMPARE[self.goal[0]](self.value, self.goal[1])

    def cells(self) -> tuple[str, str, str, str, str]:
        """The row as text: what, value, unit, quartiles, goal."""
        spread = (
            "" if self.spread is None else f"{_text(self.spread[0])} to {_text(self.spread[1])}"
        )
        goal = ""
        if self.goal is not None:
            verdict = "reached" if self.is_reached else "missed"
            goal = f"goal {self.goal[0]} {_text(self.goal[1])}: {verdict}"
        return self.what, _text(self.value), self.unit, spread, goal

    def as_dict(self) -> dict:
        """The row for JSON."""
        row = self._asdict()
        return row if self.goal is None else row | {"reached": self.is_reached}


def _text(value: float) -> str:
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def median_row(what, values: Sequence[float], unit: str, goal=None) -> Row:
    """The median over rounds, with quartiles."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return Row(what, statistics.median(values), unit, (low, high), goal)


def ratio_row(what, above: Sequence[float], below: Sequence[float], goal=None) -> Row:
    """The median over rounds of the ratio within a round."""
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    return median_row(what, ratios, "times", goal)


def take_turns(
    functions: Mapping[str, Callable[[], None]], rounds: int, at_least: float = 0.0
) -> dict[str, list[float]]:
    """Seconds a call of each function in each round; every second round goes backwards.

    Args:
      functions: they return when their work is done. Each is called once before, to compile.
      rounds: how many.
      at_least: seconds of calls a measurement, for functions faster than the clock is good.
    """
    calls = {}
    for name, function in functions.items():
        function()
        calls[name] = 1
        if at_least:
            calls[name] = max(1, round(at_least / max(_seconds(function, 1), 1e-6)))
    seconds = {name: [] for name in functions}
    for turn in range(rounds):
        for name in list(functions)[:: -1 if turn % 2 else 1]:
            seconds[name].append(_seconds(functions[name], calls[name]) / calls[name])
    return seconds


def _seconds(function: Callable[[], None], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return time.perf_counter() - started


def data_alone(sample: Callable, steps: int) -> Callable[[], None]:
    """A function that draws the batches `sample(key)` of many steps and does nothing else."""
    import jax
    import jax.numpy as jnp

    @jax.jit
    def many(key):
        def body(total, step):
            # Written to memory once, as a step needs it, not drawn anew for every sum below.
            batch = jax.lax.optimization_barrier(sample(jax.random.fold_in(key, step)))
            return total + sum(jnp.sum(leaf) for leaf in jax.tree.leaves(batch)), None

        return jax.lax.scan(body, jnp.zeros(()), jnp.arange(steps))[0]

    return lambda: many(jax.random.key(2)).block_until_ready()
