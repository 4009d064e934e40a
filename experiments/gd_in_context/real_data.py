"""The study on real data: a layer trained on synthetic tasks, given scikit-learn's diabetes set.

Dimension key: S seeds, T tasks, N context pairs.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gd_in_context import evaluation as ev
from experiments.gd_in_context.single_layer import train_one_layer
from ico import algorithms, tasks
from ico.data import diabetes
from ico.models import LinearTransformer, learner, scale_updates
from ico.report import StudyResult, difference, interval

_draw = jax.jit(tasks.tabular, static_argnames="config")


def _grids() -> dict:
    """Parameters searched on other tasks of the table, 250 candidates for each algorithm."""
    rate, gamma = np.meshgrid(np.geomspace(0.1, 25, 25), np.append(0, np.geomspace(1e-4, 0.3, 9)))
    return {
        "gradient descent": (algorithms.gd, {"rate": np.geomspace(0.01, 25, 250)}),
        "GD++, 2 steps": (
            functools.partial(algorithms.gd_plus_plus, num_steps=2),
            {"rate": rate.ravel(), "gamma": gamma.ravel()},
        ),
        "ridge regression": (algorithms.ridge, {"noise_variance": np.geomspace(1e-3, 1e3, 250)}),
    }


def real_data(context) -> StudyResult:
    """Who wins on the diabetes table, with 10 to 40 rows in context. No band."""
    trained, _, rate = train_one_layer(context)
    contexts = context.config.real_contexts
    table_RC = jnp.asarray(diabetes())
    rows, gaps, searched, arrays = [], [], [], {"context": np.array(contexts)}
    for n in contexts:
        config = tasks.Tabular(batch_size=context.config.real_tasks, num_context=n)
        sample = functools.partial(tasks.tabular, table=table_RC, config=config)
        key = context.key(f"real_data/{n}")
        episode = _draw(key, table=table_RC, config=config)
        unit = dataclasses.replace(config, input_std=1.0)
        loss, found = _losses(context, trained, rate, sample, episode, n)
        searched += [{"rows in context": n, **entry} for entry in found]
        loss |= _without_scaling(trained, episode, _draw(key, table=table_RC, config=unit), n)
        for name, value in loss.items():
            rows.append({"rows in context": n, **ev.row(name, value)})
            arrays[f"{name}/{n}"] = value
        gaps += _gaps(loss, n)
    notes = [
        *_notes(arrays),
        "Intervals are over tasks drawn from this one table (and seeds): they say how sure the "
        "order is here, not how it would be on another table. Rates are searched on other draws "
        "of the same table.",
    ]
    tables = {"losses": rows, "paired differences": gaps, "searched parameters": searched}
    return StudyResult([], tables, arrays, notes)


def _losses(context, trained, rate, sample, episode, n: int):
    """Losses by learner, and what the search found for each algorithm."""
    layer = scale_updates(trained.params, 10 / n)  # it adds up where GD averages
    loss = {
        "trained layer": ev.seed_losses(trained.apply, layer, episode),
        "GD, rate of training": ev.losses(algorithms.gd, rate, episode),
        "zero predictor": ev.losses(ev.zero, {}, episode),
    }
    found = []
    for name, (apply, grid) in _grids().items():
        grid = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), grid)
        params, losses_G = algorithms.grid_search(
            apply, grid, sample, context.key(f"real_search/{n}")
        )
        loss[f"{name}, searched"] = ev.losses(apply, params, episode)
        chosen = {key: float(value) for key, value in params.items()}
        found.append({"algorithm": name, "parameters": ", ".join(
            f"{key} {value:.3g}" for key, value in chosen.items()),
            "place in grid": f"{int(losses_G.argmin()) + 1} of {len(losses_G)}"})  # fmt: skip
    return loss, found


def _without_scaling(trained, episode, unit_episode, n: int) -> dict[str, np.ndarray]:
    """What happens to the layer without 10 / N, with inputs of unit deviation, and with both."""
    apply, scaled = learner(LinearTransformer()), scale_updates(trained.params, 10 / n)
    return {
        "layer, update not scaled": ev.seed_losses(apply, trained.params, episode),
        "layer, inputs not scaled": ev.seed_losses(apply, scaled, unit_episode),
        "layer, neither scaled": ev.seed_losses(apply, trained.params, unit_episode),
    }


def _gaps(loss, n: int) -> list[dict]:
    """Paired differences of the trained layer to all others: below zero, the layer is better."""
    layer, entries = loss["trained layer"], []
    for name, value in loss.items():
        if name != "trained layer":
            gap, (low, high) = interval(layer, value, statistic=difference)
            word = "layer" if high < 0 else "other" if low > 0 else "undecided"
            entries.append({"rows in context": n, "layer minus": name, "difference": gap,
                            "95% low": low, "95% high": high, "better": word})  # fmt: skip
    return entries


def _notes(arrays) -> list[str]:
    """Who has the least mean loss, in words made from the numbers."""
    notes = []
    for n in arrays["context"].tolist():
        mean = {
            name.rsplit("/", 1)[0]: float(value.mean())
            for name, value in arrays.items()
            if name.endswith(f"/{n}")
        }
        best = min(mean, key=mean.__getitem__)
        notes.append(
            f"{n} rows in context: least mean loss by {best} ({mean[best]:.3f}); the trained "
            f"layer has {mean['trained layer']:.3f}, the zero predictor "
            f"{mean['zero predictor']:.3f}."
        )
    return notes
