"""The contest: every optimizer tuned alike, raced on the same starts and batches.

A hand-designed optimizer is tuned for each problem and each horizon, over rates and schedules, on
runs of its own and by data of its own; so are the learned optimizers beside L3RS.

Dimension key: R runs, E tests of a run, C candidates (a rate and a schedule), N test images.
"""

import dataclasses
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.launch import Context
from experiments.learned_optimizer import problems
from experiments.learned_optimizer.problems import Problem, Split
from ico import metatrain, optim, train

SCHEDULES = ("constant", "cosine", "warm-up and cosine", "warm-up")
_WARM_UP = 0.1  # share of the steps
# Of the rates, while the best of them is at an edge: so often, by so many.
_EXTENSIONS, _MORE = 3, 4
_VERSION = 2  # of schedules and baselines: a change of either must not find old races


class Entrant(NamedTuple):
    """An optimizer in the contest.

    Fields:
      make: (schedule of the rate, horizon, theta) -> optimizer; all may be traced.
      rate: the middle of the rates that it is tuned over; 0 where nothing is to be tuned.
      theta: what it has learned.
      spec: what else it depends on, for the hash of its results.
      program: what `make` depends on: entrants of one program differ in theta and rate alone, and
        are compiled once. By default the entrant's name.
    """

    make: Callable[[Callable, Any, Any], optax.GradientTransformation]
    rate: float
    theta: Any = None
    spec: Any = None
    program: Hashable = None


def _head_alone(rate):
    def label(params):
        labels = {name: "head" if name == "head" else "body" for name in params}
        return {name: jax.tree.map(lambda _, word=labels[name]: word, part)
                for name, part in params.items()}  # fmt: skip

    return optax.multi_transform({"head": optax.adam(rate), "body": optax.set_to_zero()}, label)


BASELINES: dict[str, Entrant] = {
    "SGD": Entrant(lambda rate, *_: optax.sgd(rate), 0.1),
    "momentum": Entrant(lambda rate, *_: optax.sgd(rate, momentum=0.9), 0.03),
    "Adam": Entrant(lambda rate, *_: optax.adam(rate), 3e-3),
    "Adam, head alone": Entrant(lambda rate, *_: _head_alone(rate), 1e-2),
    "AdamW": Entrant(lambda rate, *_: optax.adamw(rate, weight_decay=1e-2), 3e-3),
    "Lion": Entrant(lambda rate, *_: optax.lion(rate), 1e-3),
    "LAMB": Entrant(lambda rate, *_: optax.lamb(rate), 3e-2),
    "Muon": Entrant(lambda rate, *_: optax.contrib.muon(rate), 1e-2),
    "schedule-free AdamW": Entrant(
        # It takes schedules as well, though its annotation has numbers alone.
        lambda rate, *_: optax.contrib.schedule_free_adamw(cast(Any, rate)),
        1e-2,
    ),
    "Prodigy": Entrant(
        # From its default estimate, 1e-6, it would spend half of fifty steps on growing.
        lambda rate, *_: optax.contrib.prodigy(rate, estim_lr0=1e-4, safeguard_warmup=True),
        1.0,
    ),
    "DoWG": Entrant(lambda rate, *_: optax.contrib.dowg(rate), 1.0),
}


def learned_entrant(learner: optim.LearnedOptimizer, theta, spec, program=None) -> Entrant:
    """A learned optimizer as it was trained: nothing of it is tuned."""
    return Entrant(lambda rate, horizon, theta: learner.build(theta, horizon), 0.0, theta, spec,
                   program)  # fmt: skip


def direction_entrant(theta, spec) -> Entrant:
    """The learned direction, whose rate and schedule are tuned as a hand-designed optimizer's."""
    return Entrant(lambda rate, _, theta: optim.direction_mlp(theta, rate), 1e-3, theta, spec,
                   "direction_mlp")  # fmt: skip


def adafac_entrant(theta, spec) -> Entrant:
    """AdafacMLP with a factor on its updates, tuned alike: it knows no horizon of its own."""
    return Entrant(lambda rate, _, theta: optim.adafac_mlp(theta, learning_rate=rate), 1.0, theta,
                   spec, "adafac_mlp")  # fmt: skip


def schedule(kind, peak, horizon):
    """The rate by step. All may be traced; `kind` is a place in SCHEDULES."""

    def rate(count):
        done = count / horizon
        falling = 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
        late = jnp.clip((done - _WARM_UP) / (1 - _WARM_UP), 0, 1)
        # The first step has a rate, too.
        rising = jnp.minimum((count + 1) / jnp.maximum(_WARM_UP * horizon, 1), 1)
        warm = rising * 0.5 * (1 + jnp.cos(jnp.pi * late))
        return peak * jnp.stack([jnp.ones_like(done), falling, warm, rising + 0 * done])[kind]

    return rate


class Run(NamedTuple):
    """Test losses along runs [R, E]; at their ends accuracies [R] and losses by image [R, N]."""

    losses: np.ndarray
    accuracy: np.ndarray
    images: np.ndarray


def _racer(which: Problem, entrant: Entrant, num_tests: int, side_by_side: int):
    """(rates, schedules, horizon, keys, networks, data, theta) -> Run; a program for all horizons.

    So many runs side by side always: one compilation for all counts of them.
    """

    def one(peak, kind, horizon, key, network, split, theta):
        keys = jax.random.split(key)
        task = problems.task_of(which, network)
        optimizer = optax.with_extra_args_support(
            entrant.make(schedule(kind, peak, horizon), horizon, theta)
        )

        def step(t, inner):
            return metatrain.inner_step(optimizer, task, inner, jax.random.fold_in(keys[1], t))[0]

        def tested(inner):
            return optim.eval_params(inner.opt_state, inner.params)

        def stretch(inner, e):
            ends = horizon * e // num_tests, horizon * (e + 1) // num_tests
            inner = jax.lax.fori_loop(*ends, step, inner)
            return inner, problems.cross_entropy(which.model, tested(inner), split)

        inner = metatrain.begin(optimizer, task, keys[0])
        inner, losses_E = jax.lax.scan(stretch, inner, jnp.arange(num_tests))
        images_N = problems.cross_entropies(which.model, tested(inner), split)
        return losses_E, problems.accuracy(which.model, tested(inner), split), images_N

    many = jax.jit(jax.vmap(one, (0, 0, None, 0, 0, None, None)))

    def race(peaks_R, kinds_R, horizon: int, keys_R, networks_R, split: Split, theta=None) -> Run:
        parts, R = [], len(peaks_R)
        for start in range(0, R, side_by_side):
            rows = np.minimum(np.arange(start, start + side_by_side), R - 1)  # the last one again
            part = many(jnp.asarray(peaks_R)[rows], jnp.asarray(kinds_R)[rows],
                        jnp.asarray(horizon, jnp.int32), keys_R[rows],
                        jnp.asarray(networks_R)[rows], split, theta)  # fmt: skip
            parts.append([np.asarray(a)[: R - start] for a in part])
        return Run(*map(np.concatenate, zip(*parts, strict=True)))

    return race


def ends(images_RN, model) -> np.ndarray:
    """Test losses by image at the ends of runs [R, N], as they are compared.

    A run beyond twice the loss of a guess, or one that diverged, counts as that on every image.
    """
    bad = 2 * float(np.log(model.num_classes))
    lost_R = ~(images_RN.mean(axis=1) <= bad)
    return np.where(lost_R[:, None], bad, images_RN)


def rates_around(middle: float, count: int) -> np.ndarray:
    """So many rates, each twice the one before, with `middle` in their midst."""
    return middle * 2.0 ** (np.arange(count) - count // 2)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """An entrant on one problem; its programs, by number of tests, are compiled once."""

    context: Context
    which: Problem
    name: str
    entrant: Entrant
    racers: dict[int, Callable] = dataclasses.field(default_factory=dict)

    def _racer(self, num_tests: int):
        if num_tests not in self.racers:
            width = self.context.config.side_by_side
            self.racers[num_tests] = _racer(self.which, self.entrant, num_tests, width)
        return self.racers[num_tests]

    def tuned(self, horizon: int) -> dict[str, Any]:
        """The best rate and schedule at a horizon: all on few runs, the best on more.

        Returns:
          "rate", "schedule" (a place in SCHEDULES), "edge": whether the rate is the first or last
          one tried, "loss": its own on the runs of the second round, and "losses"
          [schedules, rates] of the first.
        """
        config = self.context.config
        if not self.entrant.rate:
            return {"rate": 1.0, "schedule": 0, "edge": False, "loss": np.nan,
                    "rates": np.ones(1), "losses": np.zeros((1, 1))}  # fmt: skip
        kinds = np.arange(len(SCHEDULES))

        def measure(rates_C, kinds_C, runs, label):
            keys = jax.random.split(self._key(f"tune/{label}"), runs)
            networks = np.tile(np.arange(runs) % self.which.known, len(rates_C))
            run = self._racer(1)(np.repeat(rates_C, runs), np.repeat(kinds_C, runs), horizon,
                                 jnp.tile(keys, len(rates_C)), networks,
                                 self.which.valid, self.entrant.theta)  # fmt: skip
            return np.nan_to_num(run.losses[:, -1], nan=np.inf).reshape(-1, runs).mean(1)

        def first_round(rates):
            grid = np.meshgrid(kinds, rates, indexing="ij")
            return measure(grid[1].ravel(), grid[0].ravel(), config.first_runs, "first").reshape(
                len(kinds), -1
            )

        rates = rates_around(self.entrant.rate, config.num_rates)
        losses = first_round(rates)
        for _ in range(_EXTENSIONS):  # until the best is no longer at an edge
            best = losses.min(0).argmin()
            if best == 0:
                more = rates[0] * 2.0 ** np.arange(-_MORE, 0)
                rates, losses = np.append(more, rates), np.hstack([first_round(more), losses])
            elif best == len(rates) - 1:
                more = rates[-1] * 2.0 ** np.arange(1, _MORE + 1)
                rates, losses = np.append(rates, more), np.hstack([losses, first_round(more)])
        order = np.argsort(losses, axis=None)[: config.second_candidates]
        kinds_C, places_C = np.unravel_index(order, losses.shape)
        second = measure(rates[places_C], kinds_C, config.second_runs, "second")
        winner = int(np.argmin(second))
        place = int(places_C[winner])
        return {
            "rate": float(rates[place]), "schedule": int(kinds_C[winner]),
            "edge": place in (0, len(rates) - 1), "loss": float(second.min()),
            "rates": rates, "losses": losses,
        }  # fmt: skip

    def race(self, horizon: int, tuned: dict, unseen: bool = False) -> Run:
        """The test runs, which nothing was tuned or trained on; the same for all entrants."""
        config = self.context.config
        race = self._racer(config.tests_of_a_run)
        first, count = (self.which.known, self.which.unseen) if unseen else (0, self.which.known)
        networks = first + np.arange(config.test_runs) % count
        keys = jax.random.split(self._key("test/unseen" if unseen else "test"), config.test_runs)
        peaks = np.full(config.test_runs, tuned["rate"])
        kinds = np.full(config.test_runs, tuned["schedule"])
        return race(peaks, kinds, horizon, keys, networks, self.which.test, self.entrant.theta)

    def result(self, horizon: int, unseen: bool = False) -> tuple[dict, Run]:
        """Tuned, raced and kept: found again if it was done. Networks unseen or not, the same rate.

        Returns:
          What `tuned` gives, and the Run.
        """
        config = self.context.config
        spec = {
            "problem": self.which.name, "entrant": self.name, "of": self.entrant.spec,
            "middle": self.entrant.rate, "version": _VERSION,
            "horizon": horizon, "unseen": unseen, "seed": self.context.seed,
            "config": {name: getattr(config, name) for name in config.contest_fields()},
        }  # fmt: skip
        label = f"{self.which.name}-{self.name}-{horizon}".replace(", ", "-").replace(" ", "-")
        root = self.context.directory / "checkpoints"
        directory = train.artifact_directory(root, f"race-{label}", spec)
        found: Any = train.load_artifact(directory)
        if found is None:
            # On unseen networks as on known ones: what was tuned there is what is tested.
            tuned = self.result(horizon)[0] if unseen else self.tuned(horizon)
            run = self.race(horizon, tuned, unseen)
            found = {
                "tuned": {name: np.asarray(value) for name, value in tuned.items()},
                **run._asdict(),
            }
            train.save_artifact(directory, found)
            found = train.load_artifact(directory)  # rounded alike, whether found or made
        tuned = {name: np.asarray(value)[()] for name, value in found["tuned"].items()}
        return tuned, Run(*[np.asarray(found[name]) for name in Run._fields])

    def _key(self, name: str):
        return self.context.key(f"{self.which.name}/{name}")
