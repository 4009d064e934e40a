"""Real tables: a row's columns predict another one, with noise added and with their own.

Dimension key: T tasks, D inputs, Q queries.
"""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.noisy_regression import testbed
from experiments.noisy_regression.paper import deepest_diag, look_of, paper
from experiments.noisy_regression.testbed import FAR
from experiments.noisy_regression.variants import best_models
from ico import algorithms, data, lab, report, tasks
from ico.algorithms import ridge_weights
from ico.lab import Records
from ico.types import Episode, Prompt

TABLES = {
    "diabetes": data.diabetes,
    "breast_cancer": data.breast_cancer,
    "wine": data.wine,
    "digits": data.digits,
}
NOISES = (0.0, 1.0, 3.0)


@paper.study("And on real tables, with noise added and with their own?")
def real_data(run):
    """Regressions between columns of real tables, noise added at known levels, or their own."""
    config, models = run.config, best_models(run)
    learners = {name: model.weights for name, model in models.items()} | testbed.baselines(run)
    for name, inputs in itertools.product(TABLES, ("standardised", "whitened")):
        table = jnp.asarray(TABLES[name]())
        task = tasks.Tabular(
            config.real_tasks,
            config.num_context,
            input_std=1.0,
            # The clean labels of the training distribution have this standard deviation.
            target_std=math.sqrt(config.num_inputs),
            num_inputs=config.num_inputs,
            whiten=inputs == "whitened",
        )
        keys = jax.random.split(run.key(f"real/{name}"), 4)
        clean = [_draw(key, table, task) for key in keys[:2]]
        for noise in NOISES:
            test, other = map(functools.partial(_with_noise, noise=noise), clean, keys[2:])
            statistics = algorithms.statistics(test.prompt)
            weights = {learner: of(statistics) for learner, of in learners.items()}
            weights["ridge, searched"] = ridge_weights(statistics, _searched(other))
            weights["zero"] = jnp.zeros_like(statistics.xy)
            place = {"table": name, "inputs": inputs, "noise": noise}
            for learner, w in weights.items():
                trained = learner in models
                loss = np.asarray(_loss(w, test))
                yield lab.record(**place, learner=learner, trained=trained, loss=loss)
    run.note(
        f"{config.num_inputs} random columns of a table predict another, from rows that are "
        "standardised (or whitened) by all other rows; labels are scaled to the standard deviation "
        "of the training distribution. Losses are half squared errors of a row's own label, at no "
        "added noise with whatever noise the table has."
    )


real_data.note(
    "Real rows have outliers that models cube at every layer, so that a few tasks make up a mean: "
    f"medians are compared; the share of tasks with a loss beyond {FAR:g} is given."
)
real_data.note(
    "Intervals are over tasks drawn from one table: they say how sure the order is there. Models "
    "and baselines are those for noise up to 5; searched ridge has one noise variance, searched on "
    "other draws of the same tasks. An empty mean is one that overflowed."
)


@functools.partial(jax.jit, static_argnames="config")
def _draw(key, table, config) -> Episode:
    return tasks.tabular(key, table, config)


@jax.jit
def _with_noise(episode: Episode, key, noise) -> Episode:
    """The episode with noise of a standard deviation on the labels in the context."""
    x, y, x_query = episode.prompt
    return episode._replace(prompt=Prompt(x, y + noise * jax.random.normal(key, y.shape), x_query))


@jax.jit
def _searched(episode: Episode) -> Float[Array, ""]:
    """The one noise variance with which ridge regression does best on these tasks."""
    statistics, grid = algorithms.statistics(episode.prompt), jnp.geomspace(1e-3, 1e3, 60)
    losses = jax.lax.map(lambda s: jnp.mean(_loss(ridge_weights(statistics, s), episode)), grid)
    return grid[jnp.argmin(losses)]


@jax.jit
def _loss(w: Float[Array, "T D"], episode: Episode) -> Float[Array, "T"]:
    prediction = jnp.einsum("bqd,bd->bq", episode.prompt.x_query, w)[..., None]
    return tasks.half_squared_error(prediction, episode.y_query)


def median(values: Float[np.ndarray, "T"]) -> float:
    """The median; what is not a number counts as infinite."""
    return float(np.median(np.nan_to_num(values, nan=np.inf, posinf=np.inf, neginf=-np.inf)))


def gap(a: Float[np.ndarray, "T"], b: Float[np.ndarray, "T"]) -> Float[np.ndarray, "T"]:
    """Differences of losses. One that overflowed is infinitely worse, and as bad as another."""
    a, b = (np.where(np.isfinite(losses), losses, np.inf) for losses in (a, b))
    both = np.isinf(a) & np.isinf(b)
    return np.where(both, 0.0, np.where(both, 0.0, a) - np.where(both, 0.0, b))


_PLACE = ("table", "inputs", "noise")
_grid = functools.partial(lab.grid, "loss", rows=_PLACE, columns="learner")

real_data.table("median losses", _grid(of=median))
real_data.table("mean losses", _grid())
real_data.table(f"share of tasks beyond {FAR:g}", _grid(of=testbed.share_far, trained=True))


@real_data.table("median of paired differences")
def _gaps(records: Records) -> list[dict]:
    """How the deepest DIAG differs from all others, task by task: below zero, it is better."""
    first, rows = deepest_diag(records), []
    for other in records:
        if other["learner"] == first:
            continue
        place = {axis: other[axis] for axis in _PLACE}
        loss = records.one(**place, learner=first)["loss"]
        paired = gap(loss, other["loss"])
        value, (low, high) = report.interval_of(median, paired, resamples=300)
        word = "the model" if high < 0 else "the other" if low > 0 else "undecided"
        row = {f"{first}, minus": other["learner"], "difference": value}
        rows.append(place | row | {"95% low": low, "95% high": high, "better": word})
    return rows


@real_data.figure(
    "Median half squared error when ten random columns of a real table predict another, by the "
    "noise added to the labels in the context; inputs standardised (top) or whitened (bottom) by "
    "the rows outside the task. The open marker is the deepest DIAG. Axes end just above the loss "
    "of predicting zero."
)
def _by_table(records: Records):
    tables, inputs = records.axis("table"), records.axis("inputs")
    fig, axes = report.canvas(len(tables), len(inputs), height=3.0)
    deepest = deepest_diag(records)
    for row, kind in zip(axes, inputs, strict=True):
        for ax, table in zip(row, tables, strict=True):
            here = records.where(table=table, inputs=kind)
            for learner in here.axis("learner"):
                found = here.where(learner=learner)
                medians = [median(record["loss"]) for record in found]
                style = look_of(learner) | {"fillstyle": "none" if learner == deepest else "full"}
                ax.plot(found.axis("noise"), medians, label=learner, markersize=4, **style)
            # Which learners are worse than zero is told by the table.
            zero = max(median(record["loss"]) for record in here.where(learner="zero"))
            ax.set(title=f"{table}\n{kind}", ylim=(0, 1.1 * zero))
    for ax in axes[-1]:
        ax.set_xlabel("noise added")
    for ax in axes[:, 0]:
        ax.set_ylabel("median half squared error")
    report.legend_below(fig, axes)
    return fig
