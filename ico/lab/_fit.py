"""The training behind `lab.train`: models side by side through `ico.train.fit`, dead starts anew.

Dimension key: S seeds, C settings, M = S C models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ico import train as loop
from ico.files import unflatten
from ico.lab._recipe import Recipe, Restart

PyTree = Any
_ANEW = 2**31  # steps, which are folded into keys as well, are below


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """Models that differ in key, start and setting, and are trained under one vmap.

    Fields:
      keys: [M].
      init: key -> parameters.
      start: parameters [M, ...] in place of those, or None.
      given: () or (shared,) or (setting [M, ...],) or (shared, setting).
      axes: of `given`, as `jax.vmap` takes them.
    """

    keys: jax.Array
    init: Callable[[jax.Array], PyTree]
    start: PyTree
    given: tuple
    axes: tuple

    @classmethod
    def of(cls, keys_S, init, start, given, settings, given_axes=None) -> SideBySide:
        """Every seed with every setting; seed s has one key and one start in all settings."""
        shared = () if given is None else (given,)
        axes = () if given is None else (given_axes,)
        if settings is None:
            return cls(keys_S, init, start, shared, axes)
        S, C = len(keys_S), len(jax.tree.leaves(settings)[0])
        if given_axes is not None:  # what a seed is given, it is given in every setting
            whole = jax.tree.broadcast(given_axes, given, is_leaf=_is_none)
            shared = (
                jax.tree.map(
                    lambda axis, leaf: leaf if axis is None else jnp.repeat(leaf, C, axis=axis),
                    whole,
                    given,
                    is_leaf=_is_none,
                ),
            )
        tiled = jax.tree.map(
            lambda leaf: jnp.tile(jnp.asarray(leaf), (S, *[1] * (np.ndim(leaf) - 1))), settings
        )
        if start is not None:
            start = jax.tree.map(lambda leaf: jnp.repeat(jnp.asarray(leaf), C, axis=0), start)
        return cls(jnp.repeat(keys_S, C), init, start, (*shared, tiled), (*axes, 0))

    def state(self, optimizer, attempts_M: np.ndarray) -> loop.TrainState:
        """The state before step 0; models begun anew have other keys."""
        anew = jax.vmap(jax.random.fold_in)(self.keys, jnp.uint32(_ANEW) + jnp.asarray(attempts_M))
        first = jnp.asarray(attempts_M == 0)
        data = jnp.where(first[:, None], jax.random.key_data(self.keys), jax.random.key_data(anew))
        keys = jax.random.wrap_key_data(data) if attempts_M.any() else self.keys
        state = loop.init_state(self.init, optimizer, keys)
        if self.start is not None:  # an optimizer's state starts at zero, whatever the parameters
            params = jax.tree.map(jnp.asarray, self.start)
            return state._replace(params=params, opt_state=jax.vmap(optimizer.init)(params))
        return state


def _is_none(leaf) -> bool:
    return leaf is None


@dataclasses.dataclass(frozen=True)
class Training:
    """One call of `lab.train`, ready to be carried out in its artefact's folder."""

    name: str
    loss: Callable
    sampler: Callable
    recipe: Recipe
    evaluate: Callable | None
    models: SideBySide
    progress: bool
    record_at: Sequence[int] = ()

    def fit(self, folder: Path) -> dict[str, Any]:
        """Trains: {"params" [M, ...], "history", and "failure_rate" where starts may be dead}."""
        optimizer, restart = self.recipe.make(), self.recipe.restart
        step = loop.make_step(self._with_given(self.loss, 2), optimizer)
        if restart is None:
            state = self.models.state(optimizer, np.zeros(len(self.models.keys), int))
            kept = loop.Trajectory(self.record_at, directory=folder / "iterates")
            result = self._fit(step, state, self.recipe.num_steps, folder, kept)
            found = {"params": result.params, "history": unflatten(result.history)}
            return found | ({"iterates": kept.params(self.record_at)} if self.record_at else {})
        state, before, rate = self._living(step, optimizer, restart, folder)
        result = self._fit(step, state, self.recipe.num_steps, folder)
        whole = {
            metric: [rows[metric] for rows in (before, result.history) if metric in rows]
            for metric in before | result.history
        }
        history = {metric: np.concatenate(parts) for metric, parts in whole.items()}
        return {
            "params": result.params,
            "history": unflatten(history),
            "failure_rate": np.asarray(rate),
        }

    def _fit(self, step, state, num_steps: int, folder: Path, kept=None) -> loop.FitResult:
        every = max(1, min(self.recipe.steps_per_call, self.recipe.num_steps))
        config = loop.LoopConfig(
            num_steps,
            steps_per_call=every,
            checkpoint_every=5 * every,
            evaluate_every=every if self.evaluate else 0,
        )
        return loop.fit(
            step,
            state,
            self._with_given(self.sampler, 1),
            config,
            given=self.models.given or None,
            given_axes=self.models.axes or None,
            directory=folder,
            evaluate=self.evaluate and self._with_given(self.evaluate, 1),
            trajectory=kept,
            label=self.name,
            progress=self.progress,
        )

    def _with_given(self, function: Callable, arguments: int) -> Callable:
        """`fit` hands on one tree; the function takes its parts one by one."""
        if not self.models.given:
            return function
        return lambda *args: function(*args[:arguments], *args[arguments])

    def _living(self, step, optimizer, restart: Restart, folder: Path):
        """States at the step where starts are looked at, their history, and the failure rate.

        All models run to that step in every round, those begun anew with other keys; the others
        repeat themselves to the last bit, since models under a vmap do not see each other.
        """
        attempts_M = np.zeros(len(self.models.keys), int)
        at = min(restart.step, self.recipe.num_steps)
        dead: set[tuple[int, int]] = set()  # models, and which of their starts
        for number in range(len(attempts_M) * (restart.most + 1) + 1):
            state = self.models.state(optimizer, attempts_M)
            try:
                result = self._fit(step, state, at, folder / f"starts-{number}")
                loss_M = result.history["loss"][-1]
            except loop.NonFiniteLoss as error:
                loss_M = np.zeros(len(attempts_M))
                loss_M[error.seed] = np.inf
                if attempts_M[error.seed] >= restart.most:
                    raise
                result = None
            dead_M = ~(loss_M <= restart.above)
            dead |= {(int(m), int(attempts_M[m])) for m in np.flatnonzero(dead_M)}
            again_M = dead_M & (attempts_M < restart.most)
            if result is not None and not again_M.any():
                rate = len(dead) / (len(attempts_M) + int(attempts_M.sum()))
                return result.state, result.history, rate
            attempts_M = attempts_M + again_M
        raise AssertionError("every round but the last begins a model anew")
