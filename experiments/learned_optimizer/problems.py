"""Fine-tuning problems: pretrained networks, and the images that they are fine-tuned on."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Int, Key

from ico import data, lab, metatrain, models, optim
from ico.data import Images


class Spec(NamedTuple):
    """A network, what it is pretrained on, what it is fine-tuned on, and other data for that."""

    model: str
    pretrained_on: str
    data: str
    new_data: str  # no optimizer is meta-trained on it


SPECS = {
    "digits": Spec("mlp", "digits 0-4", "digits 5-9", "letters"),
    "fashion": Spec("conv", "clothes 0-4", "clothes 5-9", "Latin"),
    "glyphs": Spec("conv", "Latin", "Greek", "Cyrillic"),
    "glyphs, ViT": Spec("vit", "Latin", "Greek", "Cyrillic"),
    "places": Spec("resnet", "ImageNet", "Places", "Places, other classes"),
}


class Problem(NamedTuple):
    """A fine-tuning: pretrained networks, each to get a new head, and images in three parts.

    Fields:
      name: of the task; ends in ", new data" where the images are others.
      model: the classifier.
      train, valid, test: images to train on, to tune and meta-train by, and to test on, of 8 bits.
      bodies: parameters of the pretrained networks on a leading axis, without their heads.
      known: the first `known` networks are those that optimizers are meta-trained and tuned on.
      batch_size: images a step.
    """

    name: str
    model: nn.Module
    train: Images
    valid: Images
    test: Images
    bodies: Any
    known: int
    batch_size: int

    @property
    def unseen(self) -> int:
        """Number of the other networks, on which nothing is trained or tuned."""
        return len(jax.tree.leaves(self.bodies)[0]) - self.known

    @property
    def spec(self) -> dict[str, Any]:
        """What a result on this problem depends on, for `Run.kept`: images and networks too."""
        bodies = jax.tree.leaves(self.bodies)
        return {**self._asdict(), "model": lab.describe(self.model), "bodies": bodies}


def problems(run: lab.Run) -> dict[str, Problem]:
    """The problems of all tasks of the configuration."""
    return {name: problem(run, name) for name in run.config.tasks}


def problem(run: lab.Run, name: str, new_data: bool = False) -> Problem:
    """A problem by the name of its task; networks are pretrained, or found on disk.

    Raises:
      ico.lab.InputError: Fashion-MNIST is asked for and not installed.
    """

    def make():
        config, spec = run.config, SPECS[name]
        parts = _images(run, spec.new_data if new_data else spec.data).split(1 / 2, 1 / 4)
        counts = (config.test_images * share for share in (8, 1, 1))
        parts = [part.first(count) for part, count in zip(parts, counts, strict=True)]
        num_classes = 1 + int(max(part.labels.max() for part in parts))
        whole_name = f"{name}, new data" if new_data else name
        model, bodies = _model(config, spec.model, num_classes), _pretrained(run, spec)
        train, valid, test = jax.tree.map(jnp.asarray, parts)
        known, batch_size = config.known_networks, config.batch_size
        return Problem(whole_name, model, train, valid, test, bodies, known, batch_size)

    return run.once(("problem", name, new_data), make)


def _model(config, kind: str, num_classes: int) -> nn.Module:
    return {
        "mlp": models.MLPClassifier(num_classes, (config.mlp_width,) * 2),
        "conv": models.ConvClassifier(num_classes, config.conv_widths),
        "vit": models.ViTClassifier(num_classes),
        "resnet": models.ResNetClassifier(num_classes),
    }[kind]


def _images(run: lab.Run, name: str) -> Images:
    """The images of that name, of 8 bits, in an order drawn by the run's seed."""
    config = run.config
    sizes = {"size": config.image_size, "photo_size": config.photo_size}
    counts = {"copies": config.glyph_copies, "photos": config.photos}
    try:
        return data.images(name, **sizes, **counts).shuffled(run.seed).in_bytes()
    except (FileNotFoundError, ImportError) as error:
        raise lab.InputError("tasks", f"{error}; or leave it out of --tasks") from error


def _pretrained(run: lab.Run, spec: Spec) -> dict[str, Any]:
    """Parameters [P, ...] of networks pretrained side by side, without their heads."""
    config, name = run.config, f"{spec.pretrained_on}/{spec.model}"
    images = _images(run, spec.pretrained_on)
    model = _model(config, spec.model, int(images.labels.max()) + 1)
    pool = jax.tree.map(jnp.asarray, images.first(config.pool))
    steps, rate = config.pretrain_steps, config.pretrain_rate
    trained = lab.train(
        run,
        slug("pretrained", *name.split("/")),
        model,
        functools.partial(draw, count=config.pretrain_batch),
        lab.Recipe(steps, rate, "adamw", "cosine", clip=None, weight_decay=1e-4),
        loss=lambda params, batch, _: (models.image_loss(model, params, batch), {}),
        init=lambda key: model.init(key, models.to_unit(pool.pixels[:1]))["params"],
        given=pool,
        num_seeds=config.known_networks + config.unseen_networks,
        key=run.key(f"pretrain/{name}"),
        spec="cross-entropy",
    )
    return {name: part for name, part in trained.params.items() if name != "head"}


def slug(*words: str) -> str:
    """Words as a name of a file."""
    return "-".join(word for word in words if word).replace(", ", "-").replace(" ", "-")


def draw(key: Key[Array, ""], images: Images, count: int) -> Images:
    """A batch of `count` images, drawn with replacement."""
    chosen = jax.random.randint(key, (count,), 0, len(images.labels))
    return Images(images.pixels[chosen], images.labels[chosen])


def task_of(of: Problem, network: int | Int[Array, ""]) -> metatrain.Task:
    """The fine-tuning of one of the pretrained networks; its number may be traced.

    Learned optimizers are meta-trained by the images that hand-designed ones are tuned by.
    """

    def init(key):
        pixels = jnp.asarray(of.train.pixels[:1])
        fresh = of.model.init(key, models.to_unit(pixels))["params"]
        return fresh | jax.tree.map(lambda leaf: leaf[network], of.bodies)

    return metatrain.Task(
        init,
        lambda key: draw(key, of.train, of.batch_size),
        lambda params, batch: models.image_loss(of.model, params, batch),
        lambda params: models.image_loss(of.model, params, of.test),
        lambda key: draw(key, of.valid, of.batch_size),
    )


def family(of: Problem) -> metatrain.TaskFamily:
    """The fine-tunings of the known networks, with the meta-loss on `valid`."""
    return metatrain.TaskFamily(
        lambda key: jax.random.randint(key, (), 0, of.known), functools.partial(task_of, of)
    )


def layer_names(of: Problem) -> tuple[str, ...]:
    """The layers of its network, in the order of L3RS."""
    return optim.group_names(jax.eval_shape(task_of(of, 0).init, jax.random.key(0)))
