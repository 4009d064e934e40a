"""Tasks that no model was trained on: shifted synthetic ones, and real tables.

Dimension key: T tasks, D inputs, N context pairs.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.noisy_regression import evaluation as ev
from experiments.noisy_regression.training import Prior, prior_of
from ico import algorithms, data, tasks
from ico.algorithms import ridge_weights
from ico.report import StudyResult, interval, interval_of
from ico.types import Prompt, Statistics

TABLES = {"diabetes": data.diabetes, "breast_cancer": data.breast_cancer, "wine": data.wine,
          "digits": data.digits}  # fmt: skip
NOISES = (0.0, 1.0, 3.0)


def _models(context) -> dict:
    """The best models at noise up to 5."""
    config = context.config
    wanted = [("GD++", max(config.depths)), ("DIAG", max(config.depths)),
              ("FULL", max(config.full_depths)), ("DIAG", config.deep_depth)]  # fmt: skip
    return {f"{v}, {d} layers": ev.best(context, v, d) for v, d in dict.fromkeys(wanted)}


@dataclasses.dataclass(frozen=True)
class Shift:
    """A change of the training distribution."""

    name: str
    num_context: int = 0  # 0: as in training
    input_scale: float = 1.0
    weight_scale: float = 1.0
    sigma: float | None = None  # None: as in training
    stretch: float = 1.0  # ratio of the largest to the smallest input deviation


def shifts(config) -> list[Shift]:
    """What is tried, one change at a time."""
    n, fewer = config.num_context, max(3 * config.num_context // 4, config.num_inputs + 1)
    return [
        Shift("as in training"),
        Shift(f"{fewer} pairs", num_context=fewer),
        Shift(f"{2 * n} pairs", num_context=2 * n),
        Shift("inputs 0.8 times", input_scale=0.8),
        Shift("inputs 1.2 times", input_scale=1.2),
        Shift("inputs stretched 1 to 2", stretch=2.0),
        Shift("weights 0.5 times", weight_scale=0.5),
        Shift("weights 2 times", weight_scale=2.0),
        Shift("sigma 7", sigma=7.0),
        Shift("sigma 10", sigma=10.0),
    ]


def out_of_distribution(context) -> StudyResult:
    """Excess over the oracle of the shifted task, of models and baselines fitted to the old one."""
    config = context.config
    models, fitted = _models(context), ev.baselines(context, ev.STRONG)
    rows, lost, arrays = [], [], {}
    for shift in shifts(config):
        N = shift.num_context or config.num_context
        task = tasks.NoisyRegression(config.profile_tasks, config.num_inputs, N)
        contexts = jax.jit(tasks.noisy_context, static_argnums=1)(
            context.key(f"shift/{shift.name}"), task
        )
        statistics, oracle, scale_D = _shifted(contexts, shift)
        row: dict = {"shift": shift.name}
        lost.append({"shift": shift.name})
        # Linear attention adds up over the context: a model for N pairs is scaled to others.
        per_pair = Statistics(*(leaf * config.num_context / N for leaf in statistics))
        for name, chosen in models.items():
            w = ev.weights_of(chosen.model, chosen.params, per_pair)
            row[name], lost[-1][name] = _enter(arrays, shift, name, w, oracle, scale_D)
        for name, weights in fitted.items():
            if name != "ConstRR":
                weights = functools.partial(
                    algorithms.adaptive_ridge_weights, _tuned(context, name), num_context=N
                )
            row[name], _ = _enter(arrays, shift, name, weights(statistics), oracle, scale_D)
        rows.append(row)
    notes = [
        "One change at a time; models and baselines are those for noise up to 5. The oracle knows "
        "the shifted task. Statistics are scaled by the number of pairs before a model sees them.",
        f"A mean beyond {ev.FAR:g} is that of a few contexts which a model cubed at every layer: "
        "the second table has their share.",
    ]
    return StudyResult([], {"loss": rows, f"share of contexts beyond {ev.FAR:g}": lost}, arrays,
                       notes)  # fmt: skip


def _tuned(context, name: str) -> dict:
    config = context.config
    if name == "AdaRR":
        return {}
    found = algorithms.tune_ridge(
        ev.task_of(context), num_tasks=config.tuning_tasks, seed=1_000 + context.seed
    )
    return found.tuned


def _shifted(contexts, shift: Shift):
    """Statistics, the oracle's weights, and the deviation of every input."""
    D = contexts.weights.shape[1]
    scale_D = jnp.asarray(
        shift.input_scale * np.geomspace(shift.stretch**-0.5, shift.stretch**0.5, D)
    )
    scale_D = scale_D.astype(contexts.xx.dtype)
    moved = contexts._replace(
        xx=contexts.xx * (scale_D[:, None] * scale_D[None])[None],
        xe=contexts.xe * scale_D[None],
        weights=shift.weight_scale * contexts.weights,
    )
    level = prior_of(ev.STRONG)
    if shift.sigma is not None:
        level = Prior(*(np.full(1, shift.sigma, np.float32),) * 2)
    sigma = Prior(*map(jnp.asarray, level)).sigma(contexts.u)
    statistics = moved.at(sigma)
    # w ~ N(0, weight_scale^2 I) is the unit prior at noise sigma / weight_scale.
    return statistics, ridge_weights(statistics, (sigma / shift.weight_scale) ** 2), scale_D


def _enter(arrays, shift, name, w, oracle, scale_D) -> tuple[float, float]:
    """The mean excess and the share of contexts far off; the interval goes to the arrays."""
    loss = np.asarray(0.5 * jnp.sum((scale_D[None] * (w - oracle)) ** 2, axis=-1))
    value, (low, high) = interval(loss)
    arrays[f"{shift.name}/{name}"] = np.array([low, high, value])
    return value, ev.share_far(loss)


# Real tables -------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="config")
def _draw(key, table, config):
    return tasks.tabular(key, table, config)


@jax.jit
def _noisy(episode, noise, key):
    """The episode with noise of a standard deviation on the labels in the context."""
    x, y, x_query = episode.prompt
    y = y + noise * jax.random.normal(key, y.shape)
    return episode._replace(prompt=Prompt(x, y, x_query))


@jax.jit
def _searched(episode):
    """The one noise variance with which ridge regression does best on these tasks."""
    statistics, grid = algorithms.statistics(episode.prompt), jnp.geomspace(1e-3, 1e3, 60)
    losses = jax.lax.map(lambda s: jnp.mean(_loss(ridge_weights(statistics, s), episode)), grid)
    return grid[jnp.argmin(losses)]


@jax.jit
def _loss(w, episode):
    prediction = jnp.einsum("bqd,bd->bq", episode.prompt.x_query, w)[..., None]
    return tasks.half_squared_error(prediction, episode.y_query)


def real_data(context) -> StudyResult:
    """Regressions between columns of real tables, noise added at known levels, or their own."""
    config = context.config
    models = _models(context)
    medians, means, lost, gaps, arrays = [], [], [], [], {}
    for table_name, load in TABLES.items():
        table = jnp.asarray(load())
        for inputs in ("standardised", "whitened"):
            task = tasks.Tabular(
                config.real_tasks, config.num_context, input_std=1.0,
                # The clean labels of the training distribution have this deviation.
                target_std=math.sqrt(config.num_inputs), num_inputs=config.num_inputs,
                whiten=inputs == "whitened",
            )  # fmt: skip
            keys = jax.random.split(context.key(f"real/{table_name}"), 4)
            clean = [_draw(key, table, task) for key in keys[:2]]
            for noise in NOISES:
                test, other = (
                    _noisy(e, noise, key) for e, key in zip(clean, keys[2:], strict=True)
                )
                loss = _real_losses(context, test, other, models)
                where = {"table": table_name, "inputs": inputs, "noise added": noise}
                means.append(where | {name: float(a.mean()) for name, a in loss.items()})
                lost.append(where | {name: ev.share_far(loss[name]) for name in models})
                medians.append(dict(where))
                for name, values in loss.items():
                    value, (low, high) = interval_of(_median, values, resamples=300)
                    medians[-1][name] = value
                    arrays[f"{table_name}/{inputs}/{noise:g}/{name}"] = np.array([low, high, value])
                gaps += [where | gap for gap in _gaps(loss)]
    notes = [
        f"{config.num_inputs} random columns of a table predict another, from rows that are "
        "standardised (or whitened) by all other rows; labels are scaled to the training "
        "distribution's deviation. Losses are half squared errors of a row's own label, at no "
        "added noise with whatever noise the table has.",
        "Real rows have outliers that models cube at every layer, so that a few tasks make up a "
        f"mean: medians are compared; the share of tasks with a loss beyond {ev.FAR:g} is given.",
        "Intervals are over tasks drawn from one table: they say how sure the order is there. "
        "Models and baselines are those for noise up to 5; searched ridge has one noise variance, "
        "searched on other draws of the same tasks. An empty mean is one that overflowed.",
    ]
    tables = {
        "median losses": medians, "mean losses": means,
        f"share of tasks beyond {ev.FAR:g}": lost, "median of paired differences": gaps,
    }  # fmt: skip
    return StudyResult([], tables, arrays, notes)


def _median(values_T) -> float:
    return float(np.median(np.nan_to_num(values_T, nan=np.inf, posinf=np.inf, neginf=-np.inf)))


def _real_losses(context, test, other, models) -> dict[str, np.ndarray]:
    """Losses [T] by learner, on the tasks `test`; ridge is searched on `other`."""
    statistics = algorithms.statistics(test.prompt)
    weights: dict[str, jax.Array] = {
        name: ev.weights_of(chosen.model, chosen.params, statistics)
        for name, chosen in models.items()
    }
    weights |= {name: w(statistics) for name, w in ev.baselines(context, ev.STRONG).items()}
    weights["ridge, searched"] = ridge_weights(statistics, _searched(other))
    weights["zero"] = jnp.zeros_like(statistics.xy)
    return {name: np.asarray(_loss(w, test)) for name, w in weights.items()}


def _gap(a_T, b_T) -> np.ndarray:
    """Differences of losses; whoever overflowed is infinitely worse, and as bad as another such."""
    a_T, b_T = (np.where(np.isfinite(a), a, np.inf) for a in (a_T, b_T))
    both = np.isinf(a_T) & np.isinf(b_T)
    return np.where(both, 0.0, np.where(both, 0.0, a_T) - np.where(both, 0.0, b_T))


def _gaps(loss) -> list[dict]:
    """How the deepest DIAG differs from all others, a task by itself: below zero, it is better."""
    first = max((name for name in loss if name.startswith("DIAG")), key=lambda n: int(n.split()[1]))
    rows = []
    for name, values in loss.items():
        if name != first:
            gap, (low, high) = interval_of(_median, _gap(loss[first], values), resamples=300)
            word = "the model" if high < 0 else "the other" if low > 0 else "undecided"
            rows.append({f"{first}, minus": name, "difference": gap, "95% low": low,
                         "95% high": high, "better": word})  # fmt: skip
    return rows
