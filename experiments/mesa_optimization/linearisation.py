"""Whether softmax layers that solve linear systems can be replaced by linear ones.

Dimension key: S seeds, B sequences, T positions, E token width, N inputs.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import training as tr
from experiments.mesa_optimization.probing import hidden
from ico import tasks
from ico.models import Mixer, SequenceTransformer, sinusoidal_positions
from ico.report import StudyResult, interval, ratio


def _model(config, n: int) -> SequenceTransformer:
    return SequenceTransformer(
        ("softmax",) * config.linearisation_layers, n, n, embed_dim=4 * n, num_heads=4,
        head_dim=2 * n, position_dim=4 * n, chunk_size=4 * n,
    )  # fmt: skip


def linearisation(context) -> StudyResult:
    """Each softmax layer in turn replaced by a linear one that was fitted to its output."""
    config = context.config
    rows, arrays = [], {}
    for n in config.linearisation_dims:
        task = tasks.Dynamics(1, 4 * n, n)
        model = _model(config, n)
        recipe = tr.Recipe(config.linearisation_steps, config.batch_size, config.full_learning_rate)
        trained = tr.train_on_dynamics(context, f"softmax-{n}", model, task, recipe)
        count = config.eval_sequences
        test = tr.draw_jit(context.key(f"linearisation/{n}"), tr.sized(task, count), False)
        whole = tr.losses(trained, test)
        ratios = []
        for layer in range(len(model.kinds)):
            replaced = _replace(context, trained, task, n, layer)
            loss = tr.losses(replaced, test)
            value, (low, high) = interval(loss.mean(-1), whole.mean(-1), statistic=ratio)
            ratios.append(value)
            rows.append({"inputs": n, "layer replaced": layer + 1, "loss": float(loss.mean()),
                         "of softmax": float(whole.mean()), "ratio": value, "95% low": low,
                         "95% high": high, "of the layer's update, not fitted":
                         _not_fitted(trained, replaced, test, layer)})  # fmt: skip
        arrays[f"{n}"] = np.array(ratios)
    notes = [
        "Sequences of four times as many positions as inputs. A linear layer is fitted to the "
        "output of the softmax layer, on the tokens that it is given.",
    ]
    return StudyResult([], {"linearised": rows}, arrays, notes)


def _not_fitted(trained, replaced, test, layer: int) -> float:
    """The share of a layer's update, in squares, that the linear one does not give."""
    gaps, updates = [], []
    for seed in range(len(jax.tree.leaves(trained.params)[0])):
        theirs, ours = (hidden(m.model, tr.one(m, seed), test.inputs) for m in (trained, replaced))
        gaps.append(jnp.mean((ours[layer + 1] - theirs[layer + 1]) ** 2))
        updates.append(jnp.mean((theirs[layer + 1] - theirs[layer]) ** 2))
    return float(sum(gaps) / sum(updates))


def _replace(context, trained: tr.Trained, task, n: int, layer: int) -> tr.Trained:
    config = context.config
    mixer: Any = Mixer("linear", 4, 2 * n, init_std=0.05, chunk_size=4 * n)
    recipe = tr.Recipe(config.linear_fit_steps, config.batch_size, 5e-3, weight_decay=0.0)
    task = tr.sized(task, recipe.batch_size)
    seeds = config.num_seeds
    width = 4 * n
    code = jnp.zeros((4 * n, width)) if layer == 0 else None
    keys = jax.random.split(context.key(f"linear/{n}/{layer}"), seeds)
    students = jax.vmap(lambda key: mixer.init(key, jnp.zeros((1, 4 * n, width)), code)["params"])
    start = {"student": students(keys), "frozen": trained.params}
    found = tr.train_seeds(
        context, f"linearised-{n}-{layer}", mixer,
        lambda key: jax.tree.map(lambda leaf: leaf[0], start),
        _fit_loss(trained.model, mixer, layer),
        functools.partial(tr.draw, task=task, constructed=False), recipe,
        {"of": trained.spec, "student": tr.spec_of(mixer), "layer": layer}, start,
    )  # fmt: skip
    kinds = list(trained.model.kinds)
    kinds[layer] = "linear"
    params = {**trained.params, f"block_{layer}": {"attention": found.params["student"]}}
    return tr.Trained(dataclasses.replace(trained.model, kinds=tuple(kinds)), params)


@functools.lru_cache(maxsize=32)
def _fit_loss(model, mixer, layer):
    def loss(params, batch):
        frozen = jax.lax.stop_gradient(params["frozen"])
        tokens = model.apply({"params": frozen}, batch.inputs, method="hidden")
        code = None
        if layer == 0:
            code = jnp.asarray(sinusoidal_positions(batch.inputs.shape[1], model.position_dim))
        ours = mixer.apply({"params": params["student"]}, tokens[layer], code)
        return jnp.mean((ours - (tokens[layer + 1] - tokens[layer])) ** 2), {}

    return loss
