"""Real tables: a row's columns predict another one, with noise added and with their own."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np

from experiments.noisy_regression import testbed
from experiments.noisy_regression.paper import deepest_diag, looks, paper
from experiments.noisy_regression.testbed import FAR
from experiments.noisy_regression.variants import best_models
from ico import algorithms, data, lab, report, tasks
from ico.algorithms import ridge_weights
from ico.lab import Records

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
            test, other = (
                _with_noise(key, e, noise) for e, key in zip(clean, keys[2:], strict=True)
            )
            statistics = algorithms.statistics(test.prompt)
            weights = {learner: of(statistics) for learner, of in learners.items()}
            weights["ridge, searched"] = ridge_weights(
                statistics, _searched(other, jnp.geomspace(1e-3, 1e3, 60))
            )
            weights["zero"] = jnp.zeros_like(statistics.xy)
            place = {"table": name, "inputs": inputs, "noise": noise}
            for learner, w in weights.items():
                trained = learner in models
                loss = np.asarray(_losses(w, test))
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


_draw = jax.jit(tasks.tabular, static_argnames="config")
_with_noise = jax.jit(tasks.with_label_noise)
_searched = jax.jit(algorithms.best_noise_variance)
_losses = jax.jit(algorithms.linear_losses)


_PLACE = ("table", "inputs", "noise")
_grid = functools.partial(lab.grid, "loss", rows=_PLACE, columns="learner")

real_data.table("median losses", _grid(of=report.median))
real_data.table("mean losses", _grid())
real_data.table(f"share of tasks beyond {FAR:g}", _grid(of=testbed.share_far, trained=True))


def _median_gap(a, b):
    return report.interval_of(report.median, report.gaps(a, b), resamples=300)


real_data.table(
    "median of paired differences",
    lab.gaps("loss", rows=_PLACE, axis="learner", first=deepest_diag, of=_median_gap),
)


@real_data.figure(
    "Median half squared error, with 95% intervals, if ten random columns of a real table predict "
    "another, by the noise added to the labels in the context; inputs standardised (top) or "
    "whitened (bottom) by the rows outside the task. The open marker is the deepest DIAG. Axes end "
    "just above the loss of predicting zero."
)
def _by_table(records: Records):
    draw = lab.lines(
        "noise",
        "loss",
        of=report.median,
        color="learner",
        panel=("table", "inputs"),
        looks=looks(records, open_deepest=True),
        xlabel="noise added",
        ylabel="median half squared error",
    )
    fig = draw(records)
    places = itertools.product(records.axis("inputs"), records.axis("table"))
    for ax, (inputs, table) in zip(fig.axes, places, strict=True):
        zero = records.where(table=table, inputs=inputs, learner="zero")
        # Which learners are worse than zero is told by the table.
        ax.set_ylim(0, 1.1 * max(report.median(record["loss"]) for record in zero))
    return fig
