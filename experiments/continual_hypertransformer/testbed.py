"""Sequences of tasks, the models that learn them, and their accuracy by network and task.

Dimension key: S seeds, E test sequences, B sequences, T tasks, K classes of a task, N support
images, Q queries, D pixels.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hypertransformer.testbed import classes, recipe
from ico import data, lab, models
from ico.data import ClassImages, FewShot
from ico.models import TaskSequence
from ico.types import Episode

TASKS, CLASSES, PARTS, DOMAINS = "tasks", "classes", "parts", "domains"  # the scenarios
CHT, CROSS, SEQUENTIAL, PROTO, MERGED = (
    "continual",
    "with cross-entropy",
    "without recursion",
    "ProtoNet",
    "all tasks at once",
)
# What a model is made of, by name; all have the same network.
MAKES: dict[str, dict[str, Any]] = {
    CHT: {},
    CROSS: {"prototypes": False},
    SEQUENTIAL: {"memory": "none"},
    PROTO: {"memory": "fixed"},
}
# Learning rates that each kind is tried at, as many for each.
RATES = dict.fromkeys((CHT, CROSS, SEQUENTIAL, MERGED), (1e-4, 2e-4, 4e-4)) | {
    PROTO: (3e-3, 1e-2, 3e-2)
}


def in_tasks(episode: Episode, num_tasks: int) -> TaskSequence:
    """Classes of one episode, in groups: each is a task with classes of its own."""
    x, y, x_query = episode.prompt
    B, _, D = x.shape
    K = y.shape[-1] // num_tasks

    def cut(inputs, targets):
        rows = inputs.reshape(B, num_tasks, -1, D)
        own = targets.reshape(B, num_tasks, -1, num_tasks, K).sum(3)  # within the task's classes
        return rows, own

    return TaskSequence(*cut(x, y), *cut(x_query, episode.y_query))


def in_parts(episode: Episode, num_parts: int) -> TaskSequence:
    """One episode whose support images come in parts, each with the same classes."""
    x, y, x_query = episode.prompt
    B, _, D = x.shape
    K = y.shape[-1]

    def cut(rows, width):
        by_class = rows.reshape(B, K, num_parts, -1, width)
        return jnp.swapaxes(by_class, 1, 2).reshape(B, num_parts, -1, width)

    queries = cut(x_query, D), cut(episode.y_query, K)
    return TaskSequence(cut(x, D), cut(y, K), *queries)


def in_domains(episode: Episode, num_parts: int, size: int) -> TaskSequence:
    """The same, each part drawn another way: plain, negative, outlined, mirrored, shaded."""
    tasks = in_parts(episode, num_parts)

    def drawn(x_BTND):
        images = x_BTND.reshape(*x_BTND.shape[:3], size, size)
        found = [_DRAWN[t % len(_DRAWN)](images[:, t]) for t in range(num_parts)]
        return jnp.stack(found, 1).reshape(x_BTND.shape)

    return tasks._replace(x=drawn(tasks.x), x_query=drawn(tasks.x_query))


def _outlined(x):
    down, right = (jnp.diff(x, axis=axis, append=-1.0) for axis in (-2, -1))
    return jnp.clip(jnp.abs(down) + jnp.abs(right), 0, 2) - 1


def _shaded(x):
    return x / 2 + jnp.broadcast_to(jnp.linspace(-0.5, 0.5, x.shape[-1]), x.shape)


_DRAWN = (lambda x: x, lambda x: -x, _outlined, lambda x: x[..., ::-1], _shaded)


def sequences(run, length: int, scenario: str = TASKS, **fields) -> tuple[FewShot, Any]:
    """Episodes that hold a whole sequence, and how they are cut."""
    config = run.config
    if scenario in (PARTS, DOMAINS):
        sizes = config.way, config.shot * length, config.queries - config.queries % length
        few = FewShot(sizes[0], sizes[1], 0, max(sizes[2], length), **fields)
        if scenario == DOMAINS:
            return few, functools.partial(in_domains, num_parts=length, size=config.image_size)
        return few, functools.partial(in_parts, num_parts=length)
    few = FewShot(config.way * length, config.shot, 0, config.queries, **fields)
    return few, functools.partial(in_tasks, num_tasks=length)


def make(run, name: str, way: int, **fields: Any) -> models.ContinualHyperTransformer:
    """A model by its name."""
    config, size = run.config, run.config.image_size
    whole = MAKES.get(name, {}) | fields
    outputs = config.embedding if whole.get("prototypes", True) else way
    writer = models.HyperTransformer(
        (size, size, 1),
        way,
        config.channels,
        config.num_convs,
        outputs=outputs,
        num_blocks=config.num_blocks,
        inner=0.5,
    )
    return models.ContinualHyperTransformer(writer, **whole)


def sample(key, given, *, config: FewShot, cut):
    """A batch of sequences of the classes that are given."""
    return cut(data.few_shot(key, config, given))


def loss(params, tasks, given, *, model, judge):
    """Of all networks on all tasks that they have seen; and the last one's accuracy."""
    del given
    scores = model.apply({"params": params}, tasks)
    right = judge.accuracy(scores, tasks)
    return judge(scores, tasks), {"accuracy": right[:, -1].mean()}


def trained(run, name: str, scenario: str = TASKS):
    """A model at its kind's learning rate; MERGED sees all tasks at once."""
    return _trained(run, name, scenario, best_rate(run, name), run.config.num_steps)


@lab.once
def best_rate(run, name: str) -> float:
    """Of three, that of the highest accuracy on sequences of the scripts for tuning.

    Tuned once, with one seed and an image's task known, and used for all scenarios.
    """
    steps, found = run.config.tuning_steps, {}
    if not steps:
        return RATES[name][1]
    length = 1 if name == MERGED else run.config.num_tasks
    for rate in RATES[name]:
        one = _trained(run, name, TASKS, rate, steps, num_seeds=1)
        images = classes(run).valid
        if name == MERGED:
            few, _ = sequences(run, run.config.num_tasks)
            cut = functools.partial(in_tasks, num_tasks=1)
            right = _tested(run, one, images, few, cut, models.ContinualLoss())
        else:
            right = accuracy(run, one, images, length)
        found[rate] = float(right[..., -1, :].mean())
    best = max(found, key=lambda rate: found[rate])
    shown = ", ".join(f"{100 * right:.1f}% at {rate:g}" for rate, right in found.items())
    run.note(f"{name}: {shown} on the scripts for tuning.")
    return best


def _trained(run, name: str, scenario: str, rate: float, num_steps: int, num_seeds=None):
    config, num_tasks = run.config, run.config.num_tasks
    images = classes(run).train
    fields = {"num_tasks": config.tasks_per_step, "rotations": True}
    few, cut = sequences(run, num_tasks, scenario, **fields)
    way = config.way
    if name == MERGED:  # one task with all classes
        cut, way = functools.partial(in_tasks, num_tasks=1), way * num_tasks
    few.check(images)
    model = make(run, name, way, same_classes=scenario in (PARTS, DOMAINS))
    sampler = functools.partial(sample, config=few, cut=cut)
    given = jax.tree.map(jnp.asarray, images.arrays)
    judge = models.ContinualLoss(across=scenario == CLASSES)
    return lab.train(
        run,
        f"{name.replace(' ', '-')}-{scenario}",
        model,
        sampler,
        recipe(rate, num_steps, _chance(run, name, scenario, way)),
        loss=functools.partial(loss, model=model, judge=judge),
        init=lambda key: model.init(key, sampler(key, given))["params"],
        given=given,
        num_seeds=num_seeds,
        stream=f"sequences-{scenario}",
        spec={
            "model": repr(model),
            "sequences": few,
            "scenario": scenario,
            "merged": name == MERGED,
        },
    )


def _chance(run, name: str, scenario: str, way: int) -> float | None:
    """The loss of who answers at random, nats; with cross-entropy it may rightly stay near it."""
    if name == CROSS:
        return None
    if scenario != CLASSES:
        return math.log(way)
    seen = np.arange(1, run.config.num_tasks + 1)
    return float(np.sum(seen * np.log(way * seen)) / seen.sum())


def accuracy(
    run, found: lab.Trained, images: ClassImages, num_tasks: int, scenario: str = TASKS
) -> np.ndarray:
    """Right answers of every seed by network and task, [S, E, T, T]; NaN for tasks not yet seen."""
    few, cut = sequences(run, num_tasks, scenario)
    judge = models.ContinualLoss(across=scenario == CLASSES)
    return _tested(run, found, images, few, cut, judge)


def _tested(run, found: lab.Trained, images: ClassImages, few: FewShot, cut, judge) -> np.ndarray:
    few.check(images)
    keys = jax.random.split(run.key("test"), run.config.test_episodes)
    arrays = jax.tree.map(jnp.asarray, images.arrays)
    return np.asarray(_accuracies(found.model, found.params, arrays, keys, few, cut, judge))


@functools.partial(jax.jit, static_argnames=("model", "few", "cut", "judge"))
def _accuracies(model, params, arrays, keys, few, cut, judge):
    def of_sequence(key):
        tasks = cut(data.few_shot(key, few, arrays))

        def one(params):
            return judge.accuracy(model.apply({"params": params}, tasks), tasks)[0]

        return jax.vmap(one)(params)

    return jnp.swapaxes(jax.lax.map(of_sequence, keys, batch_size=10), 0, 1)


def scored(name: str, right: np.ndarray, **axes) -> Any:
    """A record of a model: its accuracies [S, E], in per cent, and the whole matrix [T, T]."""
    T = right.shape[-1]
    last = np.nanmean(right[..., T - 1, :], axis=-1)
    transfer = np.asarray(models.backward_transfer(right)) if T > 1 else np.zeros(right.shape[:2])
    return lab.record(
        model=name,
        **axes,
        accuracy=100 * last,
        transfer=100 * transfer,
        matrix=100 * right.mean((0, 1))[None],
    )
