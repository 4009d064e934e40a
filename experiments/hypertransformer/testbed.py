"""Classes by script, the models that learn from few images, and how they are trained and tested.

Dimension key: S seeds, T test episodes.
"""

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ico import algorithms, data, lab, models
from ico.data import ClassImages, FewShot
from ico.types import Episode, Learner, Prompt

ALL, LOGITS, PROTO, MAML, HEAD, PIXELS = (
    "all layers",
    "logits only",
    "ProtoNet",
    "MAML",
    "linear head",
    "pixels",
)
WRITTEN, RIVALS = (ALL, LOGITS), (PROTO, MAML, HEAD)
# Scripts that models are tuned on, and those that they are tested on; all others are for training.
VALID = ("ARABIC", "COPTIC")
TEST = ("ARMENIAN", "HEBREW", "LAO", "TIFINAGH", "NKO", "OGHAM", "OLD")
# Learning rates that each kind of model is tried at, as many for each.
RATES = {
    ALL: (1e-4, 2e-4, 5e-4),
    LOGITS: (2e-4, 5e-4, 1e-3),
    PROTO: (1e-3, 3e-3, 1e-2),
    MAML: (1e-3, 3e-3, 1e-2),
    HEAD: (1e-3, 3e-3, 1e-2),
}
_BATCH = 128  # images a step of the linear head's network


class Split(NamedTuple):
    """Classes to train on, to tune on, and to test on: no script is in two of them."""

    train: ClassImages
    valid: ClassImages
    test: ClassImages


@lab.once
def classes(run) -> Split:
    """Letters of the fonts inside Matplotlib by script; or Omniglot's handwriting.

    Of Omniglot's 1,623 characters 1,150 are for training and 423 for testing, as in the authors'
    code, but drawn by another generator.
    """
    if run.config.dataset == "omniglot":
        whole = _omniglot(run)
        return Split(*whole.split(1_150 / 1_623, 50 / 1_623, seed=2_022))
    whole = data.letters(run.config.image_size)
    rest = [script for script in whole.all_groups if script not in VALID + TEST]
    return Split(whole.of_groups(*rest), whole.of_groups(*VALID), whole.of_groups(*TEST))


@lab.once
def other_sets(run) -> dict[str, ClassImages]:
    """What else models are tested on, where it is installed; they are not trained on it."""
    found, size = {"training classes": classes(run).train}, run.config.image_size
    if run.config.omniglot_dir and run.config.dataset != "omniglot":
        found["Omniglot"] = _omniglot(run)
    try:
        whole = data.letters(size, noto=True)
    except FileNotFoundError:
        run.note("Fonts of Noto are not installed, so nothing is said about their scripts.")
    else:
        known = set(data.SCRIPTS)
        found["Noto"] = whole.of_groups(*(g for g in whole.all_groups if g not in known))
    return found


def _omniglot(run) -> ClassImages:
    folder = run.config.omniglot_dir
    try:
        return data.omniglot(folder or None, run.config.image_size)
    except (FileNotFoundError, ImportError) as error:
        raise lab.InputError("omniglot_dir" if folder else "dataset", str(error)) from error


def episodes(run, way: int, shot: int, unlabeled: int = 0, **fields) -> FewShot:
    """What an episode consists of; turned letters are classes of their own in training."""
    return FewShot(way, shot, unlabeled, run.config.queries, **fields)


def model_of(run, method: str, way: int, channels: int, **fields: Any) -> Any:
    """A model of a kind, all with the same small network."""
    size, convs = run.config.image_size, run.config.num_convs
    shape = (size, size, 1)
    if method in WRITTEN:
        learned = tuple(range(convs)) if method == LOGITS else ()
        # Half as wide inside as its tokens, which the authors have for all sets but Omniglot.
        whole: dict[str, Any] = {"num_blocks": run.config.num_blocks, "inner": 0.5}
        whole |= {"learned": learned}
        whole |= fields
        return models.HyperTransformer(shape, way, channels, convs, **whole)
    if method == PROTO:
        return models.ProtoNet(shape, channels, convs)
    if method == MAML:
        return models.Maml(shape, way, channels, convs, **fields)
    return models.LinearHead(shape, 4 * len(classes(run).train.names), channels, convs)


def episode_loss(params, episode: Episode, given, *, model):
    """Cross-entropy of the queries, nats, and their accuracy."""
    del given
    logits = model.apply({"params": params}, episode.prompt)
    loss = optax.softmax_cross_entropy(logits, episode.y_query).mean()
    right = logits.argmax(-1) == episode.y_query.argmax(-1)
    return loss, {"accuracy": right.mean()}


def sample_episodes(key, given, *, config: FewShot):
    """Training episodes of the classes that are given."""
    return data.few_shot(key, config, given)


def sample_with_strangers(key, given, *, config: FewShot):
    """The same, but that images without a label are of as many other classes."""
    wide = dataclasses.replace(config, way=2 * config.way)
    (x, y, x_query), y_query = data.few_shot(key, wide, given)
    B, way = len(x), config.way
    x, y = (a.reshape(B, 2 * way, -1, a.shape[-1]) for a in (x, y[..., :way]))
    labelled = jnp.arange(x.shape[2]) < config.shot
    # Of each class the labelled images, and the others of the class that is as far on.
    x = jnp.where(labelled[None, None, :, None], x[:, :way], x[:, way:])
    prompt = Prompt(_flat(x), _flat(y[:, :way]), x_query[:, : x_query.shape[1] // 2])
    return Episode(prompt, y_query[:, : x_query.shape[1] // 2, :way])


def _flat(x):
    return x.reshape(len(x), -1, x.shape[-1])


def class_loss(params, batch, given, *, model):
    """Cross-entropy of all base classes, which the linear head's network is trained by."""
    del given
    images, labels = batch
    logits = model.apply({"params": params}, images, method="class_logits")
    right = (logits.argmax(-1) == labels).mean()
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return loss, {"accuracy": right}


def sample_images(key, given, *, count: int):
    """Images, each turned by any quarter, and their class; a turned class is another."""
    keys = jax.random.split(key, 3)
    K, N = given.pixels.shape[:2]
    classes = jax.random.randint(keys[0], (count,), 0, K)
    quarter = jax.random.randint(keys[1], (count,), 0, 4)
    which = jax.random.randint(keys[2], (count,), 0, N)
    pixels = given.pixels[classes, which].astype(jnp.float32) / 127.5 - 1
    turned = jax.vmap(lambda x, q: jax.lax.select_n(q, *[jnp.rot90(x, k) for k in range(4)]))
    return turned(pixels, quarter), 4 * classes + quarter


def recipe(learning_rate: float, num_steps: int, chance: float | None = None) -> lab.Recipe:
    """Adam, where the paper has SGD for four million steps; a cosine with a warm-up.

    A start that is still at chance after a fifth of the steps (above 0.932 of the loss, nats, of
    who answers at random) is dead, and is begun anew. Without `chance` none counts as dead.
    """
    restart = None
    if chance is not None and num_steps >= 1_000:
        restart = lab.Restart(max(1, num_steps // 5), round(0.932 * chance, 2))
    return lab.Recipe(
        num_steps,
        learning_rate,
        schedule="cosine",
        warmup=0.02,
        end=0.02,
        steps_per_call=min(250, num_steps),
        restart=restart,
    )


def train(
    run,
    name: str,
    model,
    config: FewShot,
    learning_rate: float,
    num_steps=0,
    num_seeds=None,
    draw=sample_episodes,
) -> lab.Trained:
    """A model on episodes of the training scripts; the linear head's network on their classes."""
    images = classes(run).train
    config.check(images)
    given = jax.tree.map(jnp.asarray, images.arrays)
    heads = isinstance(model, models.LinearHead)
    chance = None if heads else math.log(config.way)
    how = recipe(learning_rate, num_steps or run.config.num_steps, chance)
    options: dict[str, Any] = {"given": given, "num_seeds": num_seeds, "stream": "episodes"}
    if heads:
        sampler = functools.partial(sample_images, count=_BATCH)
        prompt = data.few_shot(jax.random.key(0), config, given).prompt
        return lab.train(
            run,
            name,
            model,
            sampler,
            how,
            loss=functools.partial(class_loss, model=model),
            init=lambda key: model.init(key, prompt)["params"],
            **options,
        )
    sampler = functools.partial(draw, config=config)
    loss = functools.partial(episode_loss, model=model)
    return lab.train(run, name, model, sampler, how, loss=loss, **options)


def trained(
    run,
    method: str,
    channels: int,
    way: int,
    shot: int,
    unlabeled: int = 0,
    draw=sample_episodes,
    **fields: Any,
) -> lab.Trained:
    """A model of a kind at its best learning rate; found again by every study that wants it."""
    config = episodes(
        run, way, shot, unlabeled, num_tasks=run.config.tasks_per_step, rotations=True
    )
    model = model_of(run, method, way, channels, **fields)
    name = f"{method.replace(' ', '-')}-{channels}-{way}w{shot}s"
    return train(run, name, model, config, best_rate(run, method), draw=draw)


@lab.once
def best_rate(run, method: str) -> float:
    """Of three learning rates that with the highest accuracy on the scripts for tuning.

    Tuned once, with one seed, at the fewest channels and shots, and used for all sizes.
    """
    if not run.config.tuning_steps:
        return RATES[method][1]
    way, shot, channels = min(run.config.ways), min(run.config.shots), min(run.config.channels)
    config = episodes(run, way, shot, num_tasks=run.config.tasks_per_step, rotations=True)
    scores = {}
    for rate in RATES[method]:
        model = model_of(run, method, way, channels)
        name = f"tuning-{method.replace(' ', '-')}"
        found = train(run, name, model, config, rate, run.config.tuning_steps, num_seeds=1)
        right = accuracy(run, found.apply, found.params, classes(run).valid, way, shot)
        scores[rate] = float(right.mean())
    best = max(scores, key=lambda rate: scores[rate])
    shown = ", ".join(f"{100 * score:.1f}% at {rate:g}" for rate, score in scores.items())
    run.note(f"{method}: {shown} on the scripts for tuning.")
    return best


def accuracy(
    run,
    apply: Learner,
    params,
    images: ClassImages,
    way: int,
    shot: int,
    unlabeled: int = 0,
    draw=sample_episodes,
) -> np.ndarray:
    """Share of right answers of every seed on every test episode, [S, T]; the same for all models.

    A model that has been trained with unlabelled images is tested with as many.
    """
    config = episodes(run, way, shot, unlabeled)
    config.check(images)
    keys = jax.random.split(run.key("test"), run.config.test_episodes)
    arrays = jax.tree.map(jnp.asarray, images.arrays)
    return np.asarray(_accuracies(apply, params, arrays, keys, config, draw))


@functools.partial(jax.jit, static_argnames=("apply", "config", "draw"))
def _accuracies(apply, params, arrays, keys, config, draw):
    def of_episode(key):
        prompt, y_query = draw(key, arrays, config=config)
        answer = y_query.argmax(-1)

        def one(params):
            return (apply(params, prompt).argmax(-1) == answer).mean()

        return jax.vmap(one)(params)

    return jax.lax.map(of_episode, keys, batch_size=20).T


def pixel_accuracy(run, images: ClassImages, way: int, shot: int) -> np.ndarray:
    """Of the nearest class mean of the pixels themselves, a floor, [1, T]."""
    nothing = {"scale": jnp.ones(1)}  # to learn
    return accuracy(run, algorithms.nearest_class_mean, nothing, images, way, shot)


def compared(run, variants: dict[str, dict[str, Any]], axis: str, method: str = ALL):
    """Records of models of a kind that differ in some fields; smallest size."""
    place = min(run.config.channels), min(run.config.ways), min(run.config.shots)
    for name, fields in variants.items():
        found = trained(run, method, *place, **fields)
        right = accuracy(run, found.apply, found.params, classes(run).test, *place[1:])
        yield lab.record(
            **{axis: name},
            accuracy=100 * right,
            failure_rate=found.failure_rate,
            parameters=np.asarray(found.num_parameters),
        )
