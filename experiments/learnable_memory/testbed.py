"""The backbone, the targets, the ways of fine-tuning, and one harness for all of them.

Dimension key: S seeds, C learning rates, N images, T test images.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learnable_memory.paper import DRAWINGS
from ico import data, lab, models
from ico.data import Images

(
    FULL,
    HEAD,
    TOKEN,
    UNMASKED,
    LORA,
    ADAPTERS,
    ADAMIX,
    INDEPENDENT,
    PROMPTS,
    MANY_PROMPTS,
    HANDED_ON,
) = (
    "everything",
    "head",
    "head and class token",
    "5 cells, seen by all",
    "LoRA",
    "adapters",
    "AdaMix",
    "AdaMix, independent starts",
    "5 prompts",
    "as many prompts as cells",
    "5 cells, handed on",
)
_SIZE = 16
_CLOTHES = 7  # kinds that the backbone learns; the last three are a target
_CONSISTENCY = 1.0  # weight of AdaMix's second loss


def cells(count: int) -> str:
    """The name of fine-tuning with so many memory tokens a layer."""
    return f"{count} cell{'s' if count > 1 else ''}"


FIVE = cells(5)


def way_of(run, name: str, num_classes: int) -> models.FineTuning:
    """A way of fine-tuning by its name; LoRA and adapters have about as much to train as cells."""
    vit, depth = backbone_model(run), run.config.depth
    made = {
        FULL: lambda: models.WholeModel(vit, num_classes),
        HEAD: lambda: models.FineTuning(vit, num_classes),
        TOKEN: lambda: models.Memory(vit, num_classes, cells=0),
        UNMASKED: lambda: models.Memory(vit, num_classes, 5, masked=False),
        HANDED_ON: lambda: models.Memory(vit, num_classes, 5, masked=False, propagated=True),
        LORA: lambda: models.Lora(vit, num_classes, rank=1, alpha=4.0),
        ADAPTERS: lambda: models.Adapters(vit, num_classes, width=2),
        ADAMIX: lambda: models.AdaMix(vit, num_classes, width=2),
        INDEPENDENT: lambda: models.AdaMix(vit, num_classes, width=2, copied=False),
        PROMPTS: lambda: models.Prompts(vit, num_classes, 5),
        MANY_PROMPTS: lambda: models.Prompts(vit, num_classes, 5 * depth),
    }
    if name in made:
        return made[name]()
    return models.Memory(vit, num_classes, int(name.split()[0]))


class Target(NamedTuple):
    """Images of a task to train on, to choose the learning rate by, and to be tested on."""

    train: Images
    valid: Images
    test: Images

    @property
    def num_classes(self) -> int:
        """Of the task."""
        return int(self.train.labels.max()) + 1


@lab.once
def letters(run) -> data.ClassImages:
    """All of them, in more drawings than usual."""
    return data.letters(_SIZE, DRAWINGS)


@lab.once
def source(run) -> dict[str, np.ndarray]:
    """What the backbone learns: letters of all other scripts, then seven kinds of clothes.

    Half the images of a batch are letters: `num_letters` of the images.
    """
    whole = letters(run)
    found = whole.of_groups(*(g for g in whole.all_groups if g not in run.config.targets))
    pixels = found.pixels.reshape(-1, _SIZE, _SIZE, 1)
    labels = np.repeat(np.arange(len(found.names)), DRAWINGS)
    kinds = _CLOTHES if run.config.clothes else 0
    others = Images(pixels, labels)
    if kinds:
        others = _clothes("train").of_classes(range(kinds))
        others = others._replace(labels=others.labels + len(found.names))
    return {
        "pixels": np.concatenate([pixels, others.pixels]),
        "labels": np.concatenate([labels, others.labels]).astype(np.int32),
        "num_letters": np.asarray(len(pixels)),
        "num_classes": np.asarray(len(found.names) + kinds),
    }


def _clothes(split: str) -> Images:
    try:
        found = data.fashion_mnist(split)
    except FileNotFoundError as error:
        raise lab.InputError("targets", str(error)) from error
    found = found.shrunk()
    pixels = np.pad(found.pixels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return Images(pixels, found.labels).in_bytes()


@lab.once
def targets(run) -> dict[str, Target]:
    """By name; the same images for every seed and way."""
    return {name: _target(run, name) for name in run.config.targets}


def _target(run, name: str) -> Target:
    if name == "digits":
        found = data.digit_images().in_bytes()
        found = Images(found.pixels.repeat(2, 1).repeat(2, 2), found.labels)
    elif name == "clothes":
        found = _clothes("test").of_classes(range(_CLOTHES, 10))
    else:
        try:
            script = letters(run).of_groups(name)
        except ValueError as error:
            raise lab.InputError("targets", str(error)) from error
        found = Images(
            script.pixels.reshape(-1, _SIZE, _SIZE, 1),
            np.repeat(np.arange(len(script.names)), DRAWINGS).astype(np.int32),
        )
    found = found.shuffled(0)
    # The how-manieth image of its class each is.
    order = np.zeros(len(found.labels), int)
    for k in range(int(found.labels.max()) + 1):
        of_class = found.labels == k
        order[of_class] = np.arange(of_class.sum())
    n = run.config.per_class
    parts = order < n, (n <= order) & (order < 2 * n), order >= 2 * n
    train, valid, test = (Images(found.pixels[p], found.labels[p]) for p in parts)
    return Target(train, valid, test.first(run.config.test_images))


def backbone_model(run) -> models.ViT:
    """The transformer that stays frozen."""
    config = run.config
    return models.ViT(config.patch, config.dim, config.depth, config.num_heads, class_token=True)


def source_loss(params, batch, given, *, model):
    """Cross-entropy over all classes of the source, nats."""
    del given
    images, labels = batch
    logits = model.apply({"params": params}, images)
    errors = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    return errors.mean(), {"accuracy": (logits.argmax(-1) == labels).mean()}


def sample_source(key, given, *, count: int):
    """Half letters, half clothes."""
    letter, cloth = jax.random.split(key)
    first = given["num_letters"]
    half = count // 2
    chosen = jnp.concatenate(
        [
            jax.random.randint(letter, (half,), 0, first),
            jax.random.randint(cloth, (count - half,), first, len(given["labels"])),
        ]
    )
    return _unit(given["pixels"][chosen]), given["labels"][chosen]


def _unit(pixels):
    return pixels.astype(jnp.float32) / 127.5 - 1


@lab.once
def backbone(run) -> lab.Trained:
    """The transformer of every seed, trained on the source."""
    given = source(run)
    config, num_classes = run.config, int(given["num_classes"])
    sizes = config.patch, config.dim, config.depth, config.num_heads
    model = models.ViTClassifier(num_classes, *sizes, pooling="cls")
    recipe = lab.Recipe(
        config.pretraining_steps,
        1e-3,
        optimizer="adamw",
        weight_decay=1e-2,
        schedule="cosine",
        warmup=0.05,
        steps_per_call=min(100, config.pretraining_steps),
    )
    return lab.train(
        run,
        "backbone",
        model,
        functools.partial(sample_source, count=config.pretraining_batch),
        recipe,
        loss=functools.partial(source_loss, model=model),
        init=lambda key: model.init(key, jnp.zeros((1, _SIZE, _SIZE, 1)))["params"],
        given={name: jnp.asarray(a) for name, a in given.items() if name != "num_classes"},
    )


def logits(way, given, moving, images, key=None):
    """Of images, by the frozen transformer (`given`) and what is trained on it.

    With "below", the memory of another task, it is read beside one's own.
    """
    if "below" not in given:
        return way.logits(given["vit"], moving, images, key)
    tasks = {"below": given["below"], "own": moving}
    extends = {"own": ["below"]}
    return models.memory_logits(way.vit, given["vit"], tasks, images, extends=extends)[0]["own"]


def target_loss(moving, batch, given, rate, *, way):
    """Cross-entropy, nats, times a learning rate: for SGD of rate one that is its rate.

    AdaMix has that of two passes, and how they differ.
    """
    images, labels, key = batch
    keys = jax.random.split(key)
    random = isinstance(way, models.AdaMix)
    found = [
        logits(way, given, moving, images, own if random else None)
        for own in (keys if random else keys[:1])
    ]
    errors = [optax.softmax_cross_entropy_with_integer_labels(a, labels).mean() for a in found]
    value = sum(errors) / len(errors)
    if random:
        value = value + _CONSISTENCY * models.consistency(*found)
    return rate * value, {"nats": errors[0]}


def sample_target(key, given, rate, *, count: int):
    """Images and labels with replacement, and a key for what is random in a way."""
    del rate
    keys = jax.random.split(key)
    chosen = jax.random.randint(keys[0], (count,), 0, len(given["labels"]))
    return _unit(given["images"][chosen]), given["labels"][chosen], keys[1]


class Adapted(NamedTuple):
    """What a way of fine-tuning has made of a target.

    Fields:
      way: it.
      params: what was trained, of every seed at the best rate, [S, ...].
      right: right answers on the test images, [S, T].
      rate: the best.
      parameters: that were trained.
    """

    way: models.FineTuning
    params: Any
    right: np.ndarray
    rate: float
    parameters: int


def adapt(run, name: str, target: str, below: str = "") -> Adapted:
    """A target learned in one way at each learning rate; the best on the images kept for that.

    Memory may be learned on top of that of another target, `below`, which stays as it is.

    SGD with momentum and a warm-up, as in the paper. A rate is a factor of the loss, so that all
    are trained side by side: what is clipped at length one is the rate times the gradient.
    """
    images, config = targets(run)[target], run.config
    way = way_of(run, name, images.num_classes)
    trained, rates = backbone(run), jnp.asarray(config.rates, jnp.float32)
    recipe = lab.Recipe(
        config.num_steps,
        1.0,
        optimizer="sgd",
        momentum=0.9,
        schedule="cosine",
        warmup=0.05,
        clip=1.0,
        steps_per_call=min(100, config.num_steps),
    )
    frozen = {"vit": trained.params["vit"]}
    if below:
        frozen["below"] = adapt(run, name, below).params
    one = jax.tree.map(lambda leaf: leaf[0], frozen["vit"])
    found = lab.train(
        run,
        "-".join([name.replace(" ", "-").replace(",", ""), target, *([below] if below else [])]),
        way,
        functools.partial(sample_target, count=config.batch_size),
        recipe,
        loss=functools.partial(target_loss, way=way),
        init=lambda key: way.init(key, one),
        given=frozen
        | {
            "images": jnp.asarray(images.train.pixels),
            "labels": jnp.asarray(images.train.labels),
        },
        given_axes=dict.fromkeys(frozen, 0) | {"images": None, "labels": None},
        settings=rates,
        stream=f"target-{target}",
        spec={"way": repr(way)},
    )
    valid = answers(way, frozen, found.params, images.valid).mean((0, 2))  # [C]
    best = int(valid.argmax())
    params = jax.tree.map(lambda leaf: leaf[:, best], found.params)
    chosen = jax.tree.map(lambda leaf: leaf[:, None], params)
    right = answers(way, frozen, chosen, images.test)[:, 0]
    count = sum(leaf[0].size for leaf in jax.tree.leaves(params))
    return Adapted(way, params, right, float(rates[best]), count)


def answers(way, frozen, moving, images: Images) -> np.ndarray:
    """Whether each answer is right, [S, C, N]."""
    pixels, labels = jnp.asarray(images.pixels), jnp.asarray(images.labels)
    return np.asarray(_answers(way, frozen, moving, pixels, labels))


@functools.partial(jax.jit, static_argnames="way")
def _answers(way, frozen, moving, pixels, labels):
    def of_seed(given):
        frozen, moving = given

        def one(moving):
            return logits(way, frozen, moving, _unit(pixels)).argmax(-1) == labels

        return jax.lax.map(one, moving)

    return jax.lax.map(of_seed, (frozen, moving)).astype(jnp.float32)


def operations(run, name: str) -> float:
    """Floating-point operations of one image's answer."""
    way = way_of(run, name, 10)
    vit = jax.tree.map(lambda leaf: leaf[0], backbone(run).params["vit"])
    moving = way.init(jax.random.key(0), vit)
    image = jnp.zeros((1, _SIZE, _SIZE, 1))
    lowered = jax.jit(lambda m: way.logits(vit, m, image)).lower(moving)
    return float((lowered.compile().cost_analysis() or {}).get("flops", np.nan))
