"""Optimizers tuned and raced fairly: every one by the same rules, from the same starts.

Dimension key: R runs, E evaluations along a run, C candidates (a learning rate with a schedule).
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from ico.metatrain._tasks import Task, begin, inner_step
from ico.optim import Optimizer, eval_params, with_loss

PyTree = Any
Schedule = Callable[[Any], Any]
Build = Callable[[Schedule, Any, PyTree], Optimizer]
# (peak rates [R], schedules [R], horizon, keys [R], settings [R, ...], given, theta) -> [R, E, ...]
Racer = Callable[..., PyTree]

SCHEDULES = ("constant", "cosine", "warm-up and cosine", "warm-up")
_WARM_UP = 0.1  # share of the steps
# While the best rate is at either end of the grid, extend it by _MORE rates, at most _EXTENSIONS
# times.
_EXTENSIONS, _MORE = 3, 4


def schedule(
    kind: int | Int[Array, ""], peak: float | Float[Array, ""], horizon: int | Int[Array, ""]
) -> Schedule:
    """The learning rate by step, for the schedule at place `kind` of SCHEDULES; all may be traced.

    A warm-up is linear over a tenth of the steps; its first step has a learning rate above zero.
    """

    def rate(count):
        done = count / horizon
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        late = jnp.clip((done - _WARM_UP) / (1 - _WARM_UP), 0, 1)
        rising = jnp.minimum((count + 1) / jnp.maximum(_WARM_UP * horizon, 1), 1)
        warm = rising * 0.5 * (1 + jnp.cos(jnp.pi * late))
        return peak * jnp.stack([jnp.ones_like(done), falling, warm, rising + 0 * done])[kind]

    return rate


def racer(
    build: Build,
    task: Callable[[PyTree], Task],
    measure: Callable[[PyTree, PyTree], PyTree],
    *,
    num_tests: int = 1,
    side_by_side: int = 20,
) -> Racer:
    """A function that trains many tasks and measures them along the way.

    One compiled program serves all horizons, learning rates, schedules and counts of runs. Starts
    and batches are those of `run` with the same keys.

    Args:
      build: (schedule, horizon, theta) -> optimizer, where theta is whatever else it depends on;
        all are traced.
      task: setting -> Task, as `TaskFamily.task`.
      measure: (parameters, given) -> tree of arrays, at `ico.optim.eval_params`.
      num_tests: E, evenly spaced, the last at the end.
      side_by_side: runs in one call of the program; fewer are filled up with copies of the last.

    Returns:
      (peak learning rates [R], places in SCHEDULES [R], horizon, keys [R], settings [R, ...],
      given, theta) -> tree of NumPy arrays [R, E, ...].
    """

    def one(peak, kind, horizon, key, setting, given, theta):
        keys, of = jax.random.split(key), task(setting)
        optimizer = with_loss(build(schedule(kind, peak, horizon), horizon, theta))

        def step(t, inner):
            return inner_step(optimizer, of, inner, jax.random.fold_in(keys[1], t))[0]

        def until_test(inner, e):
            ends = horizon * e // num_tests, horizon * (e + 1) // num_tests
            inner = jax.lax.fori_loop(*ends, step, inner)
            return inner, measure(eval_params(inner.opt_state, inner.params), given)

        return jax.lax.scan(until_test, begin(optimizer, of, keys[0]), jnp.arange(num_tests))[1]

    many = jax.jit(jax.vmap(one, (0, 0, None, 0, 0, None, None)))

    def race(peaks_R, kinds_R, horizon, keys_R, settings_R, given=None, theta=None):
        parts, R = [], len(peaks_R)
        settings_R = jax.tree.map(jnp.asarray, settings_R)
        by_run = jnp.asarray(peaks_R), jnp.asarray(kinds_R), keys_R, settings_R
        for start in range(0, R, side_by_side):
            rows = np.minimum(np.arange(start, start + side_by_side), R - 1)
            peaks, kinds, keys, settings = _rows(by_run, rows)
            part = many(peaks, kinds, jnp.asarray(horizon, jnp.int32), keys, settings, given, theta)
            parts.append(_rows(jax.device_get(part), slice(R - start)))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

    return race


def _rows(tree: PyTree, rows) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[rows], tree)


class Tuned(NamedTuple):
    """The best learning rate and schedule.

    Fields:
      rate: the learning rate.
      schedule: its place in SCHEDULES.
      edge: whether the rate is the first or last one tried.
      loss: of the second round.
      rates: all that were tried.
      losses: [schedules, rates], of the first round.
    """

    rate: float
    schedule: int
    edge: bool
    loss: float
    rates: Float[np.ndarray, "rates"]
    losses: Float[np.ndarray, "schedules rates"]


def tune(
    measure: Callable[[np.ndarray, np.ndarray, str], np.ndarray],
    rates: Float[np.ndarray, "rates"],
    num_candidates: int,
) -> Tuned:
    """Tries all learning rates with all schedules in a first round, the best again in a second.

    Args:
      measure: (rates [C], places in SCHEDULES [C], "first" or "second") -> losses [C] of that
        round, finite or infinite.
      rates: a rising grid. While its best rate is at an end, it is extended there by rates a factor
        of two apart.
      num_candidates: how many go on to the second round.
    """
    kinds = np.arange(len(SCHEDULES))

    def first_round(rates):
        grid = np.meshgrid(kinds, rates, indexing="ij")
        return measure(grid[1].ravel(), grid[0].ravel(), "first").reshape(len(kinds), -1)

    losses = first_round(rates)
    for _ in range(_EXTENSIONS):
        best = losses.min(0).argmin()
        if best == 0:
            more = rates[0] * 2.0 ** np.arange(-_MORE, 0)
            rates, losses = np.append(more, rates), np.hstack([first_round(more), losses])
        elif best == len(rates) - 1:
            more = rates[-1] * 2.0 ** np.arange(1, _MORE + 1)
            rates, losses = np.append(rates, more), np.hstack([losses, first_round(more)])
    order = np.argsort(losses, axis=None)[:num_candidates]
    kinds_C, places_C = np.unravel_index(order, losses.shape)
    second_C = measure(rates[places_C], kinds_C, "second")
    winner = int(np.argmin(second_C))
    place = int(places_C[winner])
    edge = place in (0, len(rates) - 1)
    loss = float(second_C.min())
    return Tuned(float(rates[place]), int(kinds_C[winner]), edge, loss, rates, losses)


def tune_by_runs(
    racer: Racer,
    rates: Float[np.ndarray, "rates"],
    num_candidates: int,
    horizon: int,
    runs: Mapping[str, tuple[Key[Array, "R"], PyTree]],
    given: PyTree,
    theta: PyTree = None,
) -> Tuned:
    """`tune` by the mean "loss" at the ends of runs; one that diverged has an infinite loss.

    Args:
      racer: of `racer`, whose `measure` gives "loss" [], with one test.
      rates, num_candidates: as `tune`.
      horizon: steps of the runs.
      runs: "first" and "second" -> (keys, settings), each with a leading axis [R]; the same for all
        candidates of that round.
      given, theta: as the racer takes them.
    """

    def measure(rates_C, kinds_C, label):
        keys_R, settings_R = runs[label]
        R, C = len(keys_R), len(rates_C)
        settings = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * C), settings_R)
        peaks, kinds = np.repeat(rates_C, R), np.repeat(kinds_C, R)
        keys = jnp.concatenate([keys_R] * C)
        losses = racer(peaks, kinds, horizon, keys, settings, given, theta)["loss"][:, -1]
        return np.nan_to_num(losses, nan=np.inf).reshape(C, R).mean(1)

    return tune(measure, rates, num_candidates)


def rates_around(middle: float, count: int) -> Float[np.ndarray, "count"]:
    """A grid of learning rates, each twice the one before, with `middle` in its middle."""
    return middle * 2.0 ** (np.arange(count) - count // 2)
