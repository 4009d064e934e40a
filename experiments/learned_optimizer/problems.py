"""Pretrained networks and the data that they are fine-tuned on: what optimizers are tried on.

Dimension key: N images, B batch, P pretrained networks, K classes.
"""

import dataclasses
import functools
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.launch import Context, InputError
from ico import data, metatrain, models, train
from ico.data import Images

GREEK = "αβγδεζηθικλμνξοπρστυφχψω"
CYRILLIC = "абвгдежзийклмнопрстуфхцчшщъыьэюя"
_PIXELS = 2**23  # of a forward pass: 55 photographs, or all of the small sets
LATIN = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Spec:
    """A network, what it is pretrained on, and what it is fine-tuned on, by their names."""

    model: str
    pretrained_on: str
    data: str


SPECS = {
    "digits": Spec("mlp", "digits 0-4", "digits 5-9"),
    "fashion": Spec("conv", "clothes 0-4", "clothes 5-9"),
    "glyphs": Spec("conv", "Latin", "Greek"),
    "glyphs, ViT": Spec("vit", "Latin", "Greek"),
    "places": Spec("resnet", "ImageNet", "Places"),
}
# The same networks on data that no optimizer of that network was meta-trained on.
NEW_DATA = {
    "digits": Spec("mlp", "digits 0-4", "letters"),
    "fashion": Spec("conv", "clothes 0-4", "Latin"),
    "glyphs": Spec("conv", "Latin", "Cyrillic"),
    "glyphs, ViT": Spec("vit", "Latin", "Cyrillic"),
    "places": Spec("resnet", "ImageNet", "Places, other classes"),
}


class Split(NamedTuple):
    """Pixels of eight bits, [N, H, W, C], a quarter of what floats would take; labels [N]."""

    pixels: jax.Array
    labels: jax.Array


class Problem(NamedTuple):
    """A fine-tuning: pretrained networks, whose heads are drawn anew, and data in three parts.

    `bodies` are parameters of P networks on a leading axis; `known` of them, the first, are those
    that optimizers are meta-trained and tuned on.
    """

    name: str
    model: Any
    train: Split
    valid: Split
    test: Split
    bodies: Any
    known: int
    batch_size: int

    @property
    def unseen(self) -> int:
        """How many networks nothing is trained or tuned on: those behind the known ones."""
        return len(jax.tree.leaves(self.bodies)[0]) - self.known


def _images(context: Context, name: str) -> Images:
    """The data of a name, N images in an order of the run's seed."""
    images = _read(context.config, name)
    order = np.random.default_rng(context.seed).permutation(len(images.labels))
    return Images(images.pixels[order], images.labels[order])


def _read(config, name: str) -> Images:
    kind, _, classes = name.partition(" ")
    if kind in ("digits", "clothes"):
        first, last = map(int, classes.split("-"))
        images = data.digit_images() if kind == "digits" else _clothes()
        return images.of_classes(range(first, last + 1))
    if name in ("ImageNet", "Places", "Places, other classes"):
        source = "imagenet2012" if name == "ImageNet" else "places365_small"
        images = data.tfds_images(source, "train", config.photo_size, config.photos, True)
        middle = int(images.labels.max()) // 2
        if name == "ImageNet":
            return images
        classes = range(0, middle) if name == "Places" else range(middle, 2 * middle)
        return images.of_classes(classes)
    script = {"Latin": LATIN, "Greek": GREEK, "Cyrillic": CYRILLIC, "letters": LATIN[:10]}[name]
    size = 8 if name == "letters" else config.image_size  # as digits have, and their networks
    return data.glyphs(script, size, config.glyph_copies)


def _clothes() -> Images:
    try:
        return data.fashion_mnist("train").shrunk()
    except FileNotFoundError as error:
        raise InputError("tasks", f"{error}; or leave fashion out of --tasks") from error


def _split(images: Images, most: int) -> tuple[Split, Split, Split]:
    """Half to train on, a quarter to choose by, a quarter to test on; at most so many of these."""
    N = len(images.labels)
    parts = [slice(0, N // 2), slice(N // 2, N // 2 + N // 4), slice(N // 2 + N // 4, N)]
    found = []
    for i, part in enumerate(parts):
        pixels, labels = images.pixels[part], images.labels[part]
        count = most if i else 8 * most
        found.append(_eight_bits(pixels[:count], labels[:count]))
    return found[0], found[1], found[2]


def _eight_bits(pixels, labels) -> Split:
    if pixels.dtype != np.uint8:
        pixels = np.round(255 * pixels).astype(np.uint8)
    return Split(jnp.asarray(pixels), jnp.asarray(labels))


def _model(config, kind: str, num_classes: int) -> Any:
    return {
        "mlp": models.MLPClassifier(num_classes, (config.mlp_width,) * 2),
        "conv": models.ConvClassifier(num_classes, config.conv_widths),
        "vit": models.ViTClassifier(num_classes),
        "resnet": models.ResNetClassifier(num_classes),
    }[kind]


def problem(context: Context, name: str, new_data: bool = False) -> Problem:
    """A fine-tuning by its name, its networks pretrained or found; of new data if asked."""
    config, spec = context.config, (NEW_DATA if new_data else SPECS)[name]
    splits = _split(_images(context, spec.data), config.test_images)
    num_classes = int(max(part.labels.max() for part in splits)) + 1
    bodies = _pretrain(context, spec)
    return Problem(
        f"{name}, new data" if new_data else name, _model(config, spec.model, num_classes),
        *splits, bodies, config.known_networks, config.batch_size,
    )  # fmt: skip


def scaled(pixels):
    """Of eight bits, from 0 to 1."""
    return pixels.astype(jnp.float32) / 255


def cross_entropies(model, params, split: Split):
    """By image [N], nats."""
    logits = logits_of(model, params, split.pixels)
    return optax.softmax_cross_entropy_with_integer_labels(logits, split.labels)


def cross_entropy(model, params, split: Split):
    """Its mean, nats."""
    return jnp.mean(cross_entropies(model, params, split))


def accuracy(model, params, split: Split):
    """The share of images whose class is found."""
    return jnp.mean(jnp.argmax(logits_of(model, params, split.pixels), -1) == split.labels)


def logits_of(model, params, pixels):
    """[N, K], of photographs a few at a time."""
    side_by_side = _PIXELS // max(int(np.prod(pixels.shape[1:])), 1)

    def logits(some):
        return cast(jax.Array, model.apply({"params": params}, scaled(some)))

    if len(pixels) <= side_by_side:
        return logits(pixels)
    return jax.lax.map(lambda one: logits(one[None])[0], pixels, batch_size=max(side_by_side, 1))


def draw(key, split: Split, count: int) -> Split:
    """A batch with replacement."""
    chosen = jax.random.randint(key, (count,), 0, len(split.labels))
    return Split(split.pixels[chosen], split.labels[chosen])


def _pretrain(context: Context, spec: Spec):
    """Parameters of P networks on a leading axis, without their heads."""
    config = context.config
    images = _images(context, spec.pretrained_on)
    pool = _eight_bits(images.pixels[: config.pool], images.labels[: config.pool])
    model = _model(config, spec.model, int(images.labels.max()) + 1)
    count = config.known_networks + config.unseen_networks
    made = {"model": spec.model, "data": spec.pretrained_on, "steps": config.pretrain_steps,
            "photos": (config.photos, config.photo_size), "networks": count,
            "pool": config.pool, "batch": config.pretrain_batch,
            "rate": config.pretrain_rate, "copies": config.glyph_copies, "seed": context.seed,
            "size": config.image_size, "width": config.mlp_width,
            "widths": config.conv_widths}  # fmt: skip
    name = f"pretrained-{spec.pretrained_on.replace(' ', '-')}-{spec.model}"
    directory = train.artifact_directory(context.directory / "checkpoints", name, made)
    found = train.load_artifact(directory)
    if found is None:
        optimizer = optax.adamw(
            optax.cosine_decay_schedule(config.pretrain_rate, config.pretrain_steps)
        )

        def init(key):
            return model.init(key, scaled(pool.pixels[:1]))["params"]

        def loss(params, batch):
            return cross_entropy(model, params, batch), {}

        every = max(1, min(100, config.pretrain_steps))
        keys = jax.random.split(context.key(f"pretrain/{spec.pretrained_on}/{spec.model}"), count)
        result = train.fit(
            train.make_step(loss, optimizer),
            train.init_state(init, optimizer, keys),
            functools.partial(draw, split=pool, count=config.pretrain_batch),
            train.LoopConfig(config.pretrain_steps, every, checkpoint_every=5 * every),
            directory=directory,
            label=name,
            progress=context.progress,
        )
        found = jax.tree.map(np.asarray, result.state.params)
        train.save_artifact(directory, found)
    return {name: jax.tree.map(jnp.asarray, part) for name, part in found.items() if name != "head"}


def task_of(which: Problem, network) -> metatrain.Task:
    """The fine-tuning of one of the pretrained networks; its number may be traced."""

    def init(key):
        fresh = which.model.init(key, scaled(which.train.pixels[:1]))["params"]
        return {name: jax.tree.map(lambda a: a[network], which.bodies[name])
                if name in which.bodies else part for name, part in fresh.items()}  # fmt: skip

    return metatrain.Task(
        init,
        lambda key: draw(key, which.train, which.batch_size),
        lambda params, batch: cross_entropy(which.model, params, batch),
        lambda params: cross_entropy(which.model, params, which.test),
        # What hand-designed optimizers are tuned by, learned ones are trained by.
        lambda key: draw(key, which.valid, which.batch_size),
    )


def family(which: Problem) -> metatrain.TaskFamily:
    """Its fine-tunings from the known networks; meta-losses are on data that none trains on."""
    return metatrain.TaskFamily(
        lambda key: jax.random.randint(key, (), 0, which.known), functools.partial(task_of, which)
    )
