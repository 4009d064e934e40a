"""The loop: many steps a compiled call, metrics one call late, and a run that survives a kill."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ico.optim import eval_params
from ico.train import _processes
from ico.train._compiled import Evaluate, Frozen, compiled_chunk, compiled_evaluation
from ico.train._data import Sampler, Stream, as_source, take
from ico.train._errors import CheckpointError, Interrupted, NonFiniteLoss
from ico.train._log import MetricLog, Progress
from ico.train._signals import StopSignal
from ico.train._state import TrainState
from ico.train._step import NORMS, Step
from ico.train._trajectory import Trajectory
from ico.train.checkpoint import Checkpoints
from ico.train.mesh import DATA_AXIS, make_mesh, replicated

PyTree = Any


@dataclass(frozen=True)
class LoopConfig:
    """How long to train, and how often to do everything else. All counts are in steps.

    Attributes:
      num_steps: in all, those before a resume included.
      steps_per_call: steps in one compiled call. Calls end at its multiples, and at num_steps.
      checkpoint_every: rounded up to a multiple of steps_per_call; 0: only at the end.
      keep: checkpoints kept. With 1 there is none to fall back to if it is damaged.
      evaluate_every: a multiple of steps_per_call; 0: only at the end.
      evaluate_at: further steps to evaluate after; a call ends at each.
      pause_at: further steps at which a call ends.
      precision: of matrix products, as `jax.default_matmul_precision`; "default" changes nothing.
    """

    num_steps: int
    steps_per_call: int = 100
    checkpoint_every: int = 0
    keep: int = 2
    evaluate_every: int = 0
    evaluate_at: tuple[int, ...] = ()
    pause_at: tuple[int, ...] = ()
    precision: str = "default"

    def __post_init__(self) -> None:
        counts = {"num_steps": 0, "steps_per_call": 1, "checkpoint_every": 0, "keep": 1}
        for name, least in (counts | {"evaluate_every": 0}).items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if self.evaluate_every % self.steps_per_call:
            raise ValueError(
                f"evaluate_every ({self.evaluate_every}) must be a multiple of steps_per_call "
                f"({self.steps_per_call})"
            )

    def next_boundary(self, step: int) -> int:
        """Where the call that starts at `step` ends. The same for a run resumed anywhere."""
        regular = (step // self.steps_per_call + 1) * self.steps_per_call
        asked = [at for at in (*self.evaluate_at, *self.pause_at) if at > step]
        return min([regular, self.num_steps, *asked])

    def evaluates(self, step: int) -> bool:
        """Whether parameters are evaluated after `step` steps."""
        return step in self.evaluate_at or self.is_due(self.evaluate_every, step)

    def is_due(self, every: int, step: int) -> bool:
        """Whether what is done every `every` steps, and at the end, is due after `step` steps."""
        every = -(-every // self.steps_per_call) * self.steps_per_call
        return step == self.num_steps or (every > 0 and step % every == 0)


class FitResult(NamedTuple):
    """The trained state, and its metrics.

    `history` maps a metric to float64 [rows, *S], one row a compiled call: the norms are those of
    the call's last step, every other metric is the mean over its steps. "step" [rows] is the
    number of steps done; "eval/<name>" and "eval/step" have a row an evaluation.
    """

    state: TrainState
    history: dict[str, np.ndarray]

    @property
    def params(self) -> PyTree:
        """The parameters to use and to test: averaged ones if the optimizer keeps an average."""
        of_seed = jax.vmap(eval_params) if self.state.step.ndim else eval_params
        return of_seed(self.state.opt_state, self.state.params)


class _Call(NamedTuple):
    """A dispatched call whose metrics have not been fetched."""

    start: int
    end: int
    metrics: dict[str, jax.Array]
    evaluated: dict[str, jax.Array]


def fit(
    step: Step,
    state: TrainState,
    data: Sampler | Stream | Iterable[PyTree],
    config: LoopConfig,
    *,
    given: PyTree = None,
    given_axes: PyTree = None,
    directory: str | Path | None = None,
    evaluate: Evaluate | None = None,
    label: str = "",
    progress: bool = True,
    trajectory: Trajectory | None = None,
    mesh: Mesh | None = None,
    donate: bool = False,
) -> FitResult:
    """Trains until `config.num_steps`, going on from the newest good checkpoint in `directory`.

    Same inputs, machine and devices: the same numbers to the last bit, however often the run was
    killed and called again. The caller's `state` stays usable.

    Several processes joined by `jax.distributed.initialize` all call it alike, with a directory
    that they share: the first writes metrics, all of them write checkpoints.

    Args:
      step: for one seed, from `make_step`. Keep the function: a new one compiles anew. By its
        attribute `optimizer`, if it has one, checkpoints of another optimizer are told apart.
      state: from `init_state`, with or without a seed axis.
      data: a pure sampler, key -> batch, run on the device with each seed's own key; or a Stream,
        whose batches all seeds share; without a directory any iterable of batches will do, which
        is read on from where it is. Leaves of a batch are [B, ...]. Of several processes each
        reads its own shard of a Stream, and a batch is the rows of all of them.
      config: the counts.
      given: what step, sampler and evaluation need beside their arguments, and what no step moves
        (a prior, a frozen model, a world's tables): their last argument, if it is not None. It is
        in no checkpoint, so a resumed run has to be given the same.
      given_axes: where the leaves of `given` have a seed axis, as `jax.vmap` takes it: None (all
        seeds share), 0, or a tree of both that is a prefix of `given`.
      directory: where metrics.jsonl, tensorboard/ and checkpoints/ go; None writes nothing.
      evaluate: params of one seed -> dict of numbers or arrays, every `config.evaluate_every`
        steps. It gets the averaged parameters if the optimizer keeps an average
        (`ico.optim.eval_params`).
      label: stands before the progress bar.
      progress: whether to show the bar, if stderr is a terminal.
      trajectory: records the iterates at the steps it names, and predictions (`Trajectory`).
      mesh: from `make_mesh`, by default all devices of all processes; batches are split over its
        "data" axis, parameters are on every device unless they come sharded.
      donate: whether the caller gives up `state`, which spares a copy of it.

    Returns:
      FitResult(state, history); of a complete run, at once.

    Raises:
      NonFiniteLoss: loss, update or parameters became infinite or NaN. They are never saved.
      Interrupted: SIGTERM or Ctrl-C came; the call under way was finished and saved.
      CheckpointError: the directory cannot be written, or holds a checkpoint of another model,
        optimizer, seed or length.
      ValueError: a batch cannot be split over the devices, a Stream ended early, or the directory
        is an empty string.
      TypeError: `data` is nothing of that kind, or a plain iterable together with a directory.
    """
    if directory == "":  # which would be the current folder
        raise ValueError("directory is empty; name a folder, or give None to write nothing")
    data = as_source(data)
    if directory is not None and isinstance(data, Stream):
        data.position()  # of a plain iterable raises before anything is written
    mesh = make_mesh() if mesh is None else mesh
    state = jax.tree.map(lambda leaf: _own(leaf, mesh, donate), state)
    constant = _Given.of(given, given_axes, state, mesh)
    directory = None if directory is None else Path(directory).absolute()
    with contextlib.ExitStack() as stack:
        saved, resumed = None, False
        if directory is not None:
            optimizer = getattr(step, "optimizer", None)
            saved = Checkpoints(directory / "checkpoints", config.keep, optimizer)
            stack.callback(saved.close)
            if (restored := saved.restore(state)) is not None:
                resumed, (state, position) = True, restored
                if isinstance(data, Stream):
                    data.restore(position)
        start = int(np.max(_processes.whole(state.step)))
        if start > config.num_steps:
            raise CheckpointError(
                f"{directory or 'the state'} is at step {start}, beyond num_steps "
                f"{config.num_steps}; raise num_steps or use another folder"
            )
        log = MetricLog(directory, start, resumed=resumed)
        stack.callback(log.close)
        bar = Progress(label, start, config.num_steps, progress and _processes.is_first())
        stack.callback(bar.close)
        if config.precision != "default":
            stack.enter_context(jax.default_matmul_precision(config.precision))
        stop = stack.enter_context(StopSignal())
        if trajectory is not None:
            config = replace(config, pause_at=config.pause_at + trajectory.steps)
            trajectory.begin(state.params, state.step.ndim > 0)
            if start in trajectory.steps:
                trajectory.record(start, state.params, state.step.ndim > 0)
        run = _Run(step, data, config, evaluate, constant, mesh, saved, log, bar, trajectory)
        return FitResult(run.train(state, start, stop), log.history())


@dataclass(frozen=True)
class _Given:
    """What no step moves: (tree,) or (), its seed axes, and how the state lies on the devices."""

    args: tuple
    axes: Frozen
    shardings: Frozen

    @classmethod
    def of(cls, given: PyTree, axes: PyTree, state: TrainState, mesh: Mesh) -> "_Given":
        placed = jax.tree.map(lambda leaf: _placed(leaf, mesh), given)
        args = () if given is None else (placed,)
        if given is not None and axes is not None:
            axes = jax.tree.broadcast(axes, given, is_leaf=lambda leaf: leaf is None)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        return cls(args, Frozen((axes,) if args else ()), Frozen((shardings, replicated(mesh))))


@dataclass(frozen=True)
class _Run:
    """What stays the same from call to call."""

    step: Step
    data: Sampler | Stream
    config: LoopConfig
    evaluate: Evaluate | None
    given: _Given
    mesh: Mesh
    saved: Checkpoints | None
    log: MetricLog
    bar: Progress
    trajectory: Trajectory | None

    def train(self, state: TrainState, start: int, stop: StopSignal) -> TrainState:
        done, waiting, stopping = start, None, stop.name
        while done < self.config.num_steps:
            end = self.config.next_boundary(done)
            state, metrics = self.dispatch(state, end - done)
            if waiting is not None:
                self.settle(waiting)  # while the device works on the next call
            evaluated = {}
            if self.evaluate is not None and self.config.evaluates(end):
                seeds = state.step.ndim > 0
                compiled = compiled_evaluation(self.evaluate, seeds, self.given.axes, self.mesh)
                evaluated = compiled(state, self.given.args)
            waiting = _Call(done, end, metrics, evaluated)
            if self.trajectory is not None:
                self.trajectory.record(end, state.params, state.step.ndim > 0)
            done, stopping = end, _processes.first_of(stop.name)
            if stopping or self.config.is_due(self.config.checkpoint_every, done):
                self.settle(waiting)
                waiting = None
                self.save(done, state)
            if stopping:
                break
        if self.saved is not None:
            self.saved.wait()
        if stopping:
            raise Interrupted(stopping, done, self.log.directory)
        return state

    def dispatch(self, state: TrainState, length: int) -> tuple[TrainState, dict[str, jax.Array]]:
        """Starts one compiled call; does not wait for it."""
        batches, sampler = None, self.data
        if isinstance(self.data, Stream):
            batches, sampler = take(self.data, length), None
            if _processes.several():
                batches = _processes.joined(batches, _by_rows(self.mesh))
        seeds, given = state.step.ndim > 0, self.given
        chunk = compiled_chunk(
            self.step, sampler, length, seeds, given.axes, given.shardings, self.mesh
        )
        return chunk(state, batches, given.args)

    def settle(self, call: _Call) -> None:
        """Fetches, checks and logs the metrics [steps, *S] of a call."""
        metrics = {name: np.asarray(x) for name, x in jax.device_get(call.metrics).items()}
        self.check_finite(call.start, metrics)
        row = {
            name: x[-1] if name in NORMS else np.mean(x, axis=0, dtype=np.float64)
            for name, x in metrics.items()
        }
        self.bar.update(call.end - call.start, float(np.mean(row["loss"])))
        evaluated = jax.device_get(call.evaluated)
        self.log.add(call.end, row | {f"eval/{name}": x for name, x in evaluated.items()})

    def check_finite(self, start: int, metrics: dict[str, np.ndarray]) -> None:
        # Not the gradient: an optimizer may be made to skip an infinite one.
        watched = [metrics[name] for name in ("loss", "update_norm", "param_norm")]
        if np.isfinite(np.sum(watched)):
            return
        bad = ~np.isfinite(np.stack(watched)).all(axis=0)  # [steps, *S]
        if not bad.any():
            return  # the sum overflowed, no term of it did
        where = tuple(int(i) for i in np.argwhere(bad)[0])  # the first step, then the first seed
        norms = {name: float(metrics[name][where]) for name in ("loss", *NORMS)}
        last = self.saved.newest() if self.saved is not None else None
        seed = where[1] if len(where) > 1 else None
        raise NonFiniteLoss(start + where[0], seed, norms, last)

    def save(self, done: int, state: TrainState) -> None:
        if self.saved is not None:
            self.log.sync()
            position = self.data.position() if isinstance(self.data, Stream) else None
            self.saved.save(done, state, position)


def _own(leaf: Any, mesh: Mesh, donate: bool) -> jax.Array:
    """A copy on every device of the mesh: the loop donates it, the caller keeps the original.

    Weak types are made strong, or the second call, fed by the first, would compile again.
    """
    if not (isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)):
        leaf = jnp.asarray(leaf)
        leaf = jax.lax.convert_element_type(leaf, leaf.dtype)
    if _is_sharded(leaf):
        return leaf if donate else jnp.copy(leaf)
    if _processes.several():
        return _processes.placed(leaf, replicated(mesh))
    return jax.device_put(leaf, replicated(mesh), may_alias=None if donate else False)


def _placed(leaf: Any, mesh: Mesh) -> jax.Array:
    if _is_sharded(leaf):
        return leaf
    if _processes.several():
        return _processes.placed(jnp.asarray(leaf), replicated(mesh))
    return jax.device_put(leaf, replicated(mesh))


def _by_rows(mesh: Mesh) -> NamedSharding:
    """Of batches [steps, B, ...] whose rows lie on the processes that read them."""
    return NamedSharding(mesh, PartitionSpec(None, DATA_AXIS))


def _is_sharded(leaf: Any) -> bool:
    """Whether somebody has split it over devices, as large models are; that is left alone."""
    return isinstance(leaf, jax.Array) and not leaf.sharding.is_fully_replicated
