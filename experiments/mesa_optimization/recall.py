"""Recall of values by keys: what a memory of one size holds, by how it is written.

Dimension key: S seeds, B sequences, T positions, V vocabulary.
"""

import dataclasses
import functools
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import training as tr
from ico import tasks
from ico.models import MixerKind, TokenTransformer
from ico.report import StudyResult, interval, measured, ratio, unjudged

_HARD = 0.9  # the difficulty that claims are about: the first where gated linear stays below


def settings_of(context) -> dict[str, tasks.Recall]:
    """Tasks from easy to hard, by name: noisy ones, then fuzzy ones."""
    config = context.config
    noisy = {f"noisy, {keys} keys": tasks.Recall(1, config.recall_slots, keys, noise=0.3)
             for keys in config.recall_keys}  # fmt: skip
    fuzzy = {f"fuzzy, {keys * keys} keys": tasks.Recall(1, config.recall_slots, keys, fuzzy=True)
             for keys in config.fuzzy_keys}  # fmt: skip
    return noisy | fuzzy


def _model(config, mixer: MixerKind, task: tasks.Recall) -> Any:
    return TokenTransformer(task.vocab_size, (mixer,) * 2, dim=config.recall_dim, num_heads=2,
                            head_dim=config.recall_head_dim, position_dim=16)  # fmt: skip


@functools.lru_cache(maxsize=64)
def loss_of(model):
    """Cross entropy where the next token can be known."""

    def loss(params, batch):
        logits = cast(jax.Array, model.apply({"params": params}, batch.inputs))
        log_p = jax.nn.log_softmax(logits)
        chosen = jnp.take_along_axis(log_p, batch.targets[..., None], axis=-1)[..., 0]
        return -jnp.sum(chosen * batch.mask) / jnp.maximum(jnp.sum(batch.mask), 1), {}

    return loss


@functools.partial(jax.jit, static_argnums=0)
def _right(model, params, batch):
    """Right answers and questions of every sequence, [B] each."""
    logits = model.apply({"params": params}, batch.inputs)
    right = (jnp.argmax(logits, -1) == batch.targets) & batch.mask
    return right.sum(-1), batch.mask.sum(-1)


def accuracies(trained: tr.Trained, batch) -> tuple[np.ndarray, np.ndarray]:
    """Right answers and questions, [S, B] each."""
    count = len(jax.tree.leaves(trained.params)[0])
    pairs = [_right(trained.model, tr.one(trained, s), batch) for s in range(count)]
    right, asked = zip(*pairs, strict=True)
    return np.stack(right).astype(float), np.stack(asked).astype(float)


def _draw(context, name: str, task: tasks.Recall, times: int = 1):
    """Sequences that no model was trained on, so many times as long."""
    task = dataclasses.replace(task, batch_size=context.config.recall_tests,
                               num_slots=times * task.num_slots)  # fmt: skip
    return jax.jit(tasks.recall, static_argnums=1)(context.key(f"recall/{name}"), task)


def _train(context, mixer: MixerKind, name: str, task: tasks.Recall, rate: float, spare=False):
    """Models of one kind on one task; all kinds see the same batches. Spare: one seed apart."""
    config = context.config
    recipe = tr.TokenRecipe(config.recall_steps, config.recall_batch, rate)
    model = _model(config, mixer, task)
    task = dataclasses.replace(task, batch_size=recipe.batch_size)

    def init(key):
        return model.init(key, jnp.zeros((1, task.slot_width * 8), int))["params"]

    label = ("spare-" if spare else "") + name.replace(", ", "-").replace(" ", "-")
    return tr.train_seeds(
        context, f"recall-{mixer}-{label}", model, init, loss_of(model),
        functools.partial(tasks.recall, config=task), recipe,
        {"model": tr.spec_of(model), "task": task}, stream=f"recall/{label}", num_seeds=int(spare),
    )  # fmt: skip


def tuned_rate(context, mixer: MixerKind) -> tuple[float, dict[float, float]]:
    """The learning rate that is best for a seed of its own on the hardest noisy task, and all."""
    settings = settings_of(context)
    name = f"noisy, {context.config.recall_keys[-1]} keys"
    other = _draw(context, "rates", settings[name])
    found = {}
    for rate in context.config.recall_learning_rates:
        right, asked = accuracies(_train(context, mixer, name, settings[name], rate, True), other)
        found[rate] = float(right.sum() / asked.sum())
    return max(found, key=lambda rate: found[rate]), found


def recall(context) -> StudyResult:
    """Accuracy of every kind of layer, in models of two, at several difficulties and lengths."""
    config = context.config
    rows, rate_rows, arrays, found, elsewhere = [], [], {}, {}, {}
    rates = {}
    for mixer in config.recall_mixers:
        rates[mixer], tried = tuned_rate(context, mixer)
        rate_rows.append({"layer": mixer} | {f"{rate:g}": value for rate, value in tried.items()})
    for name, task in settings_of(context).items():
        tests = {times: _draw(context, f"{name}/{times}", task, times)
                 for times in config.recall_lengths}  # fmt: skip
        other = _draw(context, f"{name}/difficulty", task)
        for mixer in config.recall_mixers:
            trained = _train(context, mixer, name, task, rates[mixer])
            right, asked = accuracies(trained, other)
            elsewhere[name, mixer] = right.sum() / asked.sum()
            row = {"task": name, "layer": mixer, "parameters": tr.num_parameters(trained)}
            for times, test in tests.items():
                right, asked = accuracies(trained, test)
                found[name, mixer, times] = right, asked
                value, (low, high) = interval(right, asked, statistic=ratio)
                label = "accuracy" if times == 1 else f"at length x{times}"
                row[label] = value
                if times == 1:
                    row |= {"95% low": low, "95% high": high}
                    row |= {f"seed {i}": float(a / b) for i, (a, b) in
                            enumerate(zip(right.sum(1), asked.sum(1), strict=True))}  # fmt: skip
                arrays[f"{name}/{mixer}/{times}"] = np.array([low, high, value])
            rows.append(row)
    notes = [
        "Two layers without MLPs, equal in all but the layer; gates, write strengths and "
        "regularisers, where a rule has them, are the few parameters more. A mesa layer keeps two "
        "matrices a head where the others keep one. Sequences of other lengths are longer than any "
        "trained on.",
        "Learning rates: accuracy of a seed of its own, on other sequences of the hardest noisy "
        "task; the best is taken for all tasks.",
        f"Claims are about the first task, in this order, where gated linear attention stays below "
        f"{_HARD:.0%} and some layer does not, both on other sequences; and about the exact mesa "
        "layer that forgets nothing.",
    ]
    claims = _claims(config, found, elsewhere)
    return StudyResult(claims, {"recall": rows, "learning rates": rate_rows}, arrays, notes)


def _claims(config, found, elsewhere):
    claims = ("recall.gated_linear", "recall.delta")
    if not {"gated_linear", "delta", "mesa"} <= set(config.recall_mixers):
        return [unjudged(claim, "a layer that it is about was not trained") for claim in claims]
    for name in dict.fromkeys(name for name, _ in elsewhere):
        can_be_learned = max(v for (task, _), v in elsewhere.items() if task == name) >= _HARD
        if elsewhere[name, "gated_linear"] < _HARD and can_be_learned:
            # Questions are the same for all layers, so sums of right answers are paired.
            asked = found[name, "mesa", 1][1]
            return [
                measured(claim, found[name, "mesa", 1][0], found[name, other, 1][0], asked,
                         statistic=lambda mesa, peer, asked: (mesa - peer) / asked, note=name)
                for claim, other in zip(claims, ("gated_linear", "delta"), strict=True)
            ]  # fmt: skip
    note = "on every task gated linear attention reached 90%, or no layer did"
    return [unjudged(claim, note) for claim in claims]
