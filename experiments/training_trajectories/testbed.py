"""The two image sets, their networks, and training on them by plain SGD.

Dimension key: S seeds, C learning rates, N images, D parameters of one network, n iterates.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ico import data, lab, models, probes
from ico.models import Norm

DIGITS_BATCH = 16


class Split(NamedTuple):
    """Images to train on, to tune on, and to test on."""

    train: data.Images
    valid: data.Images
    test: data.Images


@lab.once
def looked_at(run) -> data.Images:
    """What losses along lines are looked at on: training images alone."""
    kind, count = run.config.images, run.config.num_images
    if kind == "digits":
        return data.digit_images().shuffled(run.seed).first(count)
    if kind == "clothes":
        return data.fashion_mnist("train").shrunk().shuffled(run.seed).first(count)
    return data.images("ImageNet", photos=count)


@lab.once
def digits(run) -> Split:
    """600 to test on, 300 to tune on, and of the rest as many as the configuration wants."""
    whole = data.digit_images().shuffled(run.seed)
    parts = np.split(np.arange(len(whole.labels)), [600, 900])
    test, valid, train = (data.Images(whole.pixels[p], whole.labels[p]) for p in parts)
    return Split(train.first(run.config.num_digits), valid, test)


def network(run, norm: Norm = "batch", widths=(16, 32), depth=1):
    """The residual network of the first two studies."""
    if run.config.network == "small":
        stride = 2 if run.config.images == "clothes" else 1
        return models.SmallResNetClassifier(10, widths, depth, stride, norm)
    bottleneck = run.config.network == "ResNet-50"
    return models.ResNetClassifier(1000, bottleneck=bottleneck, norm=norm)


def digit_network():
    """The residual network of the other studies."""
    return models.SmallResNetClassifier(10, (8, 16), norm="batch")


def cross_entropy(logits, labels):
    """[N], nats."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def batch_loss(params, batch, model, stats=None):
    """Mean cross-entropy of a batch (images, labels), nats; with the batch's own statistics."""
    images, labels = batch
    variables = {"params": params} | ({} if stats is None else {"batch_stats": stats})
    return cross_entropy(model.apply(variables, models.to_unit(images)), labels).mean()


# Places on a line where its least loss is looked for, in units of the direction.
_PLACES = np.append(0, np.geomspace(1e-7, 50, 140))


def best_step(loss, params, direction):
    """How far along a direction the loss is least, on a grid of steps of a sixth."""
    losses = probes.along(loss, params, direction, jnp.asarray(_PLACES))
    losses = jnp.where(jnp.isfinite(losses), losses, jnp.inf)
    return jnp.asarray(_PLACES, jnp.float32)[jnp.argmin(losses)]


def rated_loss(params, batch, given, rate=1.0, *, model):
    """The training loss times a learning rate: for plain SGD of rate one, that learning rate."""
    del given
    value = batch_loss(params, batch, model)
    return rate * value, {"nats": value}


def sample(key, given, rate=1.0, *, batch_size):
    """Images and labels of a step, drawn with replacement."""
    del rate
    chosen = jax.random.randint(key, (batch_size,), 0, len(given["labels"]))
    return models.to_unit(given["images"][chosen]), given["labels"][chosen]


def train(run, name, model, images, labels_SN, recipe, *, batch_size, rates=None, **options):
    """SGD of every seed on its own labels; with `rates` [C] of every learning rate as well."""
    given = {"images": jnp.asarray(images), "labels": jnp.asarray(labels_SN)}
    return lab.train(
        run,
        name,
        model,
        functools.partial(sample, batch_size=batch_size),
        recipe,
        loss=functools.partial(rated_loss, model=model),
        given=given,
        given_axes={"images": None, "labels": 0},
        settings=None if rates is None else jnp.asarray(rates, jnp.float32),
        stream=options.pop("stream", "sgd"),
        **options,
    )


def steps_per_epoch(run) -> int:
    """Of training on digits."""
    return run.config.num_digits // DIGITS_BATCH


@lab.once
def noisy_labels(run, share: float) -> np.ndarray:
    """[S, N]: of each seed, with a share of the digits' labels drawn anew, from all classes."""
    clean = digits(run).train.labels
    rng = np.random.default_rng([run.seed, 1])
    drawn = rng.integers(0, 10, (run.num_seeds, len(clean)))
    anew = rng.random(drawn.shape) < share
    return np.where(anew, drawn, clean).astype(np.int32)


@lab.once
def poisoned(run) -> tuple[np.ndarray, np.ndarray]:
    """Labels [S, N] of which one in twenty is the next class; and which they are."""
    clean = digits(run).train.labels
    marked = np.random.default_rng([run.seed, 2]).random((run.num_seeds, len(clean))) < 0.05
    marked[:, :2] = [True, False]  # at least one of each
    return np.where(marked, (clean + 1) % 10, clean).astype(np.int32), marked


def sgd(run, schedule: Any = "constant", average=None, num_steps=None, optimizer="sgd"):
    """Plain SGD of learning rate one on digits; rates are in the loss (`rated_loss`)."""
    num_steps = num_steps or run.config.epochs * steps_per_epoch(run)
    return lab.Recipe(
        num_steps,
        1.0,
        optimizer,
        schedule,
        tail=1.0,
        clip=None,
        average=average,
        steps_per_call=steps_per_epoch(run),
    )


def train_digits(run, name, recipe, *, labels=None, rates=None, **options):
    """The digits' network by every seed and learning rate."""
    labels = noisy_labels(run, run.config.label_noise) if labels is None else labels
    rates = run.config.digit_rates if rates is None else rates
    return train(
        run,
        name,
        digit_network(),
        digits(run).train.pixels,
        labels,
        recipe,
        batch_size=DIGITS_BATCH,
        rates=rates,
        **options,
    )


@lab.once
def constant(run):
    """The base of most studies: a constant learning rate, with an iterate kept every epoch."""
    every = steps_per_epoch(run)
    at = range(0, run.config.epochs * every + 1, every)
    return train_digits(run, "constant", sgd(run), record_at=at)


def best_rate(run, params) -> int:
    """Which learning rate [S, C, ...] has the least mean loss on validation images."""
    valid = digits(run).valid
    losses_C = [measure(run, at_rate(params, c), valid)["loss"].mean() for c in _rates(params)]
    return int(np.nanargmin(losses_C))


def _rates(params):
    return range(jax.tree.leaves(params)[0].shape[1])


def at_rate(params, c: int):
    """Parameters [S, ...] of one learning rate."""
    return jax.tree.map(lambda leaf: leaf[:, c], params)


def measure(run, params, images, labels_SN=None) -> dict[str, np.ndarray]:
    """Of every seed: "loss" and "right" [S, N]; "logits" [S, N, 10].

    With the batch-normalisation statistics of its parameters, from all training images; and with
    labels of each seed, or those of the images.
    """
    train_images = jnp.asarray(digits(run).train.pixels)[None]
    logits = _logits(params, train_images, jnp.asarray(images.pixels))
    labels_SN = jnp.broadcast_to(
        jnp.asarray(images.labels if labels_SN is None else labels_SN), logits.shape[:2]
    )
    loss = jax.vmap(cross_entropy)(logits, labels_SN)
    right = logits.argmax(-1) == labels_SN
    found = {"loss": loss, "right": right.astype(jnp.float32), "logits": logits}
    return {name: np.asarray(value) for name, value in found.items()}


@jax.jit
def _logits(params, train_images, pixels):
    model = digit_network()

    def one(params):
        stats = models.batch_statistics(model, params, train_images)
        return model.apply({"params": params, "batch_stats": stats}, pixels)

    return jax.lax.map(one, params)


def from_flat(trained, flat_SD) -> Any:
    """Parameters as a tree [S, ...], of flat ones."""
    return jax.vmap(trained.unravel)(jnp.asarray(flat_SD))


def iterates(trained) -> np.ndarray:
    """[n, S, D], or [n, S, C, D]: those that were recorded."""
    assert trained.iterates is not None
    return trained.iterates


def average_of(trained, rows, c: int) -> Any:
    """The mean of recorded iterates of one learning rate, as a tree [S, ...]."""
    chosen = iterates(trained)[rows, :, c].astype(np.float64)
    return from_flat(trained, chosen.mean(0).astype(np.float32))
