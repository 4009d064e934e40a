"""And on real data, never trained on? (beyond the paper)

The layer trained on synthetic tasks gets regressions between the columns of scikit-learn's diabetes
table, beside algorithms whose parameters are searched on other draws of that table. No claim.

Dimension key: S seeds, T tasks, G candidates.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import LAYER, LOSS, ZERO
from ico import algorithms, lab, tasks
from ico.data import diabetes
from ico.models import scale_updates

TRAINED_RATE = "GD, rate of training"
NO_UPDATE_SCALE = "layer, update not scaled"
NO_INPUT_SCALE = "layer, inputs not scaled"
NEITHER = "layer, neither scaled"
_draw = jax.jit(tasks.tabular, static_argnames="config")


_RATES, _GAMMAS = np.meshgrid(np.geomspace(0.1, 25, 25), np.append(0, np.geomspace(1e-4, 0.3, 9)))
# Algorithms whose parameters are searched, with 250 candidates for each.
ALGORITHMS = {
    "gradient descent": (algorithms.gd, {"rate": np.geomspace(0.01, 25, 250)}),
    "GD++, 2 steps": (
        functools.partial(algorithms.gd_plus_plus, num_steps=2),
        {"rate": _RATES.ravel(), "gamma": _GAMMAS.ravel()},
    ),
    "ridge regression": (algorithms.ridge, {"noise_variance": np.geomspace(1e-3, 1e3, 250)}),
}


@paper.study("And on real data, never trained on?")
def real_data(run):
    """Who wins on the diabetes table, with 10 to 40 rows in context. No band."""
    trained, table_RC = regression.trained_layer(run), jnp.asarray(diabetes())
    for n in run.config.real_contexts:
        config = tasks.Tabular(batch_size=run.config.real_tasks, num_context=n)
        scaled = scale_updates(trained.params, 10 / n)  # it adds up where GD averages
        learners = {
            LAYER: trained.remade(scaled),
            TRAINED_RATE: regression.gradient_step(run),
            ZERO: (regression.predict_zero, {}),
        }
        sample = functools.partial(tasks.tabular, table=table_RC, config=config)
        for name, (apply, grid) in ALGORITHMS.items():
            grid = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), grid)
            params, losses_G = algorithms.grid_search(
                apply, grid, sample, run.key(f"real_search/{n}")
            )
            learners[f"{name}, searched"] = (apply, params)
            words = ", ".join(f"{key} {float(value):.3g}" for key, value in params.items())
            place = f"{int(losses_G.argmin()) + 1} of {len(losses_G)}"
            yield lab.record("searched", context=n, algorithm=name, parameters=words, place=place)
        learners[NO_UPDATE_SCALE] = trained
        key = run.key(f"real_data/{n}")
        episode = _draw(key, table=table_RC, config=config)
        yield from regression.compared(learners, episode, context=n)
        unit = dataclasses.replace(config, input_std=1.0)
        unscaled = {NO_INPUT_SCALE: learners[LAYER], NEITHER: trained}
        episode = _draw(key, table=table_RC, config=unit)
        yield from regression.compared(unscaled, episode, context=n)


real_data.note(
    "Intervals are over tasks drawn from this one table (and seeds): they say how sure the order "
    "is here, not how it would be on another table. Rates are searched on other draws of the same "
    "table."
)
real_data.table("losses", lab.rows("loss"))


real_data.table(
    "paired differences", lab.gaps("loss", rows=("context",), axis="learner", first=LAYER)
)


# What the searches chose, and where in their grids.
real_data.table(
    "searched parameters", lambda records: [dict(one.axes) for one in records["searched"]]
)
_by_context = functools.partial(
    lab.bars, "loss", x="context", color="learner", xlabel="rows in context", ylabel=LOSS, log=True
)
real_data.figure(
    _by_context(learner=[LAYER, TRAINED_RATE, ZERO, *(f"{name}, searched" for name in ALGORITHMS)]),
    "Beyond the paper: tasks from scikit-learn's diabetes table. Mean loss with its 95% interval "
    "over tasks and seeds, on a logarithmic axis, by rows in context. The layer is the one trained "
    'on synthetic tasks, its update scaled by 10 over the number of rows; "searched" means chosen '
    "on other tasks of the table.",
    name="real_data_learners",
)
real_data.figure(
    _by_context(learner=[LAYER, NO_UPDATE_SCALE, NO_INPUT_SCALE, NEITHER, ZERO]),
    "The same table: the trained layer, the layer with its update not scaled by 10 over the number "
    "of rows, and with inputs of unit deviation in place of the training distribution's. Mean loss "
    "with its 95% interval on a logarithmic axis.",
    name="real_data_scaling",
)
