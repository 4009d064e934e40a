"""Few-shot episodes from any images that come by class.

Dimension key: K classes, N images of a class, H height, W width, C channels, B tasks, D = H W C.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key, UInt8

from ico.data._distort import Distortion, distort
from ico.data._images import Images
from ico.types import Episode, Prompt


class ClassArrays(NamedTuple):
    """What a sampler needs on the device. Of class k the first `counts[k]` images are there."""

    pixels: UInt8[Array, "K N H W C"] | UInt8[np.ndarray, "K N H W C"]
    counts: Int[Array, K] | Int[np.ndarray, K]


@dataclasses.dataclass(frozen=True)
class ClassImages:
    """Images by class, in memory.

    Fields:
      pixels: uint8 [K, N, H, W, C]; a class with fewer than N images is filled up with zeros.
      counts: int [K], the images that each class has.
      names: of the classes.
      groups: of each class the group it belongs to, such as its alphabet.
    """

    pixels: UInt8[np.ndarray, "K N H W C"]
    counts: Int[np.ndarray, K]
    names: tuple[str, ...]
    groups: tuple[str, ...]

    @classmethod
    def of(
        cls, images: Mapping[str, np.ndarray], groups: Mapping[str, str] | None = None
    ) -> ClassImages:
        """Of any arrays by class, [n, H, W, C], uint8 or floats from 0 to 1.

        Raises:
          ValueError: no class, a class without images, or images of different shapes.
        """
        if not images:
            raise ValueError("want one class at least")
        shapes = {array.shape[1:] for array in images.values()}
        if len(shapes) > 1 or len(next(iter(shapes))) != 3:
            raise ValueError(f"images must be [n, H, W, C] of one shape, not {sorted(shapes)}")
        if empty := [name for name, array in images.items() if not len(array)]:
            raise ValueError(f"class {empty[0]!r} has no images")
        counts = np.array([len(array) for array in images.values()], np.int32)
        pixels = np.zeros((len(images), counts.max(), *next(iter(shapes))), np.uint8)
        for k, array in enumerate(images.values()):
            is_float = np.issubdtype(array.dtype, np.floating)
            pixels[k, : len(array)] = np.round(255 * array) if is_float else array
        groups = groups or {}
        return cls(pixels, counts, tuple(images), tuple(groups.get(name, "") for name in images))

    @classmethod
    def of_labelled(cls, images: Images) -> ClassImages:
        """Of labelled images, such as `ico.data.fashion_mnist()`."""
        classes = np.unique(images.labels)
        return cls.of({str(k): images.pixels[images.labels == k] for k in classes})

    @property
    def arrays(self) -> ClassArrays:
        """For the sampler."""
        return ClassArrays(self.pixels, self.counts)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""
        _, _, H, W, C = self.pixels.shape
        return H, W, C

    def chosen(self, classes: Iterable[int] | np.ndarray) -> ClassImages:
        """Some classes, by number or by a mask [K]."""
        order = np.asarray(list(classes))
        order = np.flatnonzero(order) if order.dtype == bool else order.astype(int)
        names, groups = ([x[k] for k in order] for x in (self.names, self.groups))
        return ClassImages(self.pixels[order], self.counts[order], tuple(names), tuple(groups))

    def of_groups(self, *groups: str) -> ClassImages:
        """The classes of some groups.

        Raises:
          ValueError: a group that no class belongs to.
        """
        if missing := sorted(set(groups) - set(self.groups)):
            raise ValueError(f"no group {missing[0]!r}; there are {', '.join(self.all_groups)}")
        return self.chosen(np.array([group in groups for group in self.groups]))

    @property
    def all_groups(self) -> tuple[str, ...]:
        """Every group once, in order of appearance."""
        return tuple(dict.fromkeys(self.groups))

    def split(self, *shares: float, seed: int = 0, by_group: bool = False) -> list[ClassImages]:
        """Parts with disjoint classes, drawn by the seed; the last has what the shares leave.

        Args:
          *shares: of the classes (or of the groups), positive and less than one together.
          seed: of the draw.
          by_group: whether whole groups are drawn, so that no alphabet is in two parts.

        Raises:
          ValueError: shares that are not positive or leave nothing, or a part without classes.
        """
        if min(shares, default=0) <= 0 or sum(shares) >= 1:
            raise ValueError(f"shares must be positive and less than one together, not {shares}")
        units = self.all_groups if by_group else tuple(range(len(self.names)))
        order = np.random.default_rng(seed).permutation(len(units))
        ends = np.round(np.cumsum(shares) * len(units)).astype(int)
        parts = [[units[i] for i in part] for part in np.split(order, ends)]
        if not all(parts):
            raise ValueError(f"{len(units)} classes or groups are too few for shares {shares}")
        if by_group:
            return [self.of_groups(*map(str, part)) for part in parts]
        return [self.chosen(sorted(int(k) for k in part)) for part in parts]


@dataclasses.dataclass(frozen=True)
class FewShot:
    """What an episode consists of.

    Fields:
      way: classes of an episode.
      shot: labelled images of each in the support set.
      unlabeled: further images of each in the support set, whose label is not given.
      queries: images of each to be classified.
      num_tasks: episodes in a batch.
      rotations: whether a class turned by 90, 180 or 270 degrees counts as a class of its own.
      distortion: of every image.

    Raises:
      ValueError: a number out of range.
    """

    way: int = 5
    shot: int = 1
    unlabeled: int = 0
    queries: int = 15
    num_tasks: int = 1
    rotations: bool = False
    distortion: Distortion = Distortion()

    def __post_init__(self):
        for name, least in [
            ("way", 2),
            ("shot", 1),
            ("unlabeled", 0),
            ("queries", 1),
            ("num_tasks", 1),
        ]:
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")

    def check(self, images: ClassImages) -> None:
        """Raises ValueError if these images are too few for such episodes."""
        H, W, _ = images.image_shape
        kinds = len(images.names) * (4 if self.rotations else 1)
        needed = self.shot + self.unlabeled + self.queries
        if self.rotations and H != W:
            raise ValueError(f"rotations need images as high as wide, not {H} x {W}")
        if kinds < self.way:
            raise ValueError(f"{self.way} ways need as many classes, and there are {kinds}")
        if images.counts.min() < needed:
            short = images.names[int(images.counts.argmin())]
            raise ValueError(
                f"{needed} images of a class are needed, and class {short!r} has "
                f"{images.counts.min()}"
            )


def few_shot(key: Key[Array, ""], config: FewShot, images: ClassArrays) -> Episode:
    """Episodes whose classes, their numbers and their images are drawn without replacement.

    Pure, with static shapes: jit, vmap and scan it.

    Args:
      key: of the draw.
      config: of the episodes.
      images: by class; see `FewShot.check`, which a caller runs once before.

    Returns:
      Support images x [B, way (shot + unlabeled), D] and queries [B, way queries, D], flattened,
      pixels from -1 to 1, class after class; targets y are one-hot, [B, ..., way], and all zeros
      for an image without a label.
    """
    keys = jax.random.split(key, config.num_tasks)
    return jax.vmap(lambda key: _episode(key, config, images))(keys)


def _episode(key, config: FewShot, images: ClassArrays) -> Episode:
    way, labelled = config.way, config.shot
    shown = labelled + config.unlabeled
    K, N, *image_shape = images.pixels.shape
    keys = jax.random.split(key, 4)
    turns = 4 if config.rotations else 1
    kinds = _distinct(keys[0], turns * K, way)
    classes, quarter = kinds // turns, kinds % turns
    present = jnp.arange(N)[None] < jnp.asarray(images.counts)[classes][:, None]
    order = jnp.argsort(jnp.where(present, jax.random.uniform(keys[1], (way, N)), 2.0), axis=1)
    chosen = jnp.asarray(images.pixels)[classes[:, None], order[:, : shown + config.queries]]
    pixels = chosen.astype(jnp.float32) / 127.5 - 1
    if config.rotations:
        pixels = jax.vmap(_turned)(pixels, quarter)
    flat = pixels.reshape(-1, *image_shape)
    pixels = distort(keys[2], flat, config.distortion).reshape(pixels.shape)

    targets = jnp.broadcast_to(jnp.eye(way)[:, None], (way, shown + config.queries, way))
    known = jnp.arange(shown) < labelled
    x = pixels.reshape(way, -1, int(np.prod(image_shape)))
    y = jnp.where(known[None, :, None], targets[:, :shown], 0.0)
    prompt = Prompt(_join(x[:, :shown]), _join(y), _join(x[:, shown:]))
    return Episode(prompt, _join(targets[:, shown:]))


def _distinct(key, below: int, count: int):
    """Different numbers, drawn uniformly: a permutation of thousands of classes takes longer."""
    free = jax.random.randint(key, (count,), 0, below - jnp.arange(count))  # which of those left

    def draw(chosen, i):
        # Every number chosen before, in rising order, moves it on by one.
        place, _ = jax.lax.scan(lambda x, c: (x + (x >= c), None), free[i], jnp.sort(chosen))
        return chosen.at[i].set(place), None

    return jax.lax.scan(draw, jnp.full(count, below), jnp.arange(count))[0]


def _join(x):
    return x.reshape(-1, x.shape[-1])


def _turned(images_NHWC, quarter):
    turned = [jnp.rot90(images_NHWC, k, axes=(1, 2)) for k in range(4)]
    return jax.lax.select_n(quarter, *turned)
