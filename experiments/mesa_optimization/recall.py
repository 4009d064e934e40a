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
from ico.report import StudyResult, difference, interval, measured, unjudged

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
                            head_dim=config.recall_head_dim, mlp_dim=2 * config.recall_dim,
                            position_dim=16)  # fmt: skip


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


def recall(context) -> StudyResult:
    """Accuracy of every kind of layer, in models of two, at several difficulties and lengths."""
    config = context.config
    rows, arrays, found = [], {}, {}
    for name, task in settings_of(context).items():
        recipe = tr.Recipe(config.recall_steps, config.recall_batch, config.recall_learning_rate)
        sampler = functools.partial(tasks.recall, config=dataclasses.replace(
            task, batch_size=recipe.batch_size))  # fmt: skip
        tests = {
            times: jax.jit(tasks.recall, static_argnums=1)(
                context.key(f"recall/{name}/{times}"),
                dataclasses.replace(task, batch_size=config.recall_tests,
                                    num_slots=times * task.num_slots),
            )
            for times in config.recall_lengths
        }  # fmt: skip
        for mixer in config.recall_mixers:
            model = _model(config, mixer, task)

            def init(key, model=model, task=task):
                return model.init(key, jnp.zeros((1, task.slot_width * 8), int))["params"]

            trained = tr.train_seeds(
                context, f"recall-{mixer}-{name.replace(', ', '-').replace(' ', '-')}", model, init,
                loss_of(model), sampler, recipe, {"model": tr.spec_of(model), "task": task},
            )  # fmt: skip
            row = {"task": name, "layer": mixer, "parameters": tr.num_parameters(trained)}
            for times, test in tests.items():
                right, asked = accuracies(trained, test)
                found[name, mixer, times] = right, asked
                value, (low, high) = interval(right, asked, statistic=lambda r, a: r / a)
                label = "accuracy" if times == 1 else f"at length x{times}"
                row[label] = value
                if times == 1:
                    row |= {"95% low": low, "95% high": high}
                arrays[f"{name}/{mixer}/{times}"] = np.array([low, high, value])
            rows.append(row)
    notes = [
        "Two layers with MLPs, equal in all but the layer; gates and regularisers are the few "
        "parameters more. Sequences of other lengths are longer than any trained on.",
        f"Claims are about the first task, in this order, where gated linear attention stays below "
        f"{_HARD:.0%}, and about the exact mesa layer.",
    ]
    return StudyResult(_claims(config, found), {"recall": rows}, arrays, notes)


def _claims(config, found):
    names = list(dict.fromkeys(name for name, _, _ in found))
    claims = ("recall.gated_linear", "recall.delta")
    if not {"gated_linear", "delta", "mesa"} <= set(config.recall_mixers):
        return [unjudged(claim, "a layer that it is about was not trained") for claim in claims]
    for name in names:
        right, asked = found[name, "gated_linear", 1]
        if right.sum() < _HARD * asked.sum():
            # Questions are the same for all layers, so shares of right answers are paired.
            share = {mixer: found[name, mixer, 1][0] / np.maximum(found[name, mixer, 1][1], 1)
                     for mixer in ("gated_linear", "delta", "mesa")}  # fmt: skip
            return [
                measured(claim, share["mesa"], share[other], statistic=difference, note=name)
                for claim, other in zip(claims, ("gated_linear", "delta"), strict=True)
            ]
    return [unjudged(claim, "gated linear attention solved every task") for claim in claims]
