"""Labelled images: that come with packages, that are drawn from fonts, and any of TFDS.

Dimension key: N images, H height, W width, C channels.
"""

import gzip
import io
import math
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from ico.data._tfds import tfds_source
from ico.files import FileError, read_bytes

_FASHION = Path("/usr/share/datasets/fashion-mnist")
_LARGEST_IDX = 256 * 2**20  # bytes unpacked; Fashion-MNIST has 47 million
_FACES = ("DejaVuSans", "DejaVuSansMono", "DejaVuSerif")
_STYLES = ("", "-Bold", "-Oblique", "-BoldOblique")
# What `glyphs` draws, by script.
ALPHABETS = {
    "Latin": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "Greek": "αβγδεζηθικλμνξοπρστυφχψω",
    "Cyrillic": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
}


class Images(NamedTuple):
    """Pixels, from 0 to 1 or of 8 bits (`tfds_images`), and the class of each image, from 0 on."""

    pixels: Float[np.ndarray, "N H W C"] | UInt8[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, "N"]

    def of_classes(self, classes: range) -> "Images":
        """The images of some classes, which are numbered from 0 again."""
        chosen = (self.labels >= classes.start) & (self.labels < classes.stop)
        return Images(self.pixels[chosen], self.labels[chosen] - classes.start)

    def shuffled(self, seed: int) -> "Images":
        """In an order drawn by the seed."""
        order = np.random.default_rng(seed).permutation(len(self.labels))
        return Images(self.pixels[order], self.labels[order])

    def first(self, count: int) -> "Images":
        """The first `count` images; all, if there are fewer."""
        return Images(self.pixels[:count], self.labels[:count])

    def split(self, *shares: float) -> "tuple[Images, ...]":
        """Consecutive parts with these shares of the images, rounded down; the last has the rest.

        Raises:
          ValueError: shares that are negative, or more than one together.
        """
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"shares must be positive and at most one together, not {shares}")
        ends = np.cumsum([int(share * len(self.labels)) for share in shares])
        parts = zip(np.split(self.pixels, ends), np.split(self.labels, ends), strict=True)
        return tuple(Images(*part) for part in parts)

    def in_bytes(self) -> "Images":
        """With pixels of 8 bits: a quarter of the memory that floats take."""
        if self.pixels.dtype == np.uint8:
            return self
        return self._replace(pixels=np.round(255 * self.pixels).astype(np.uint8))

    def shrunk(self) -> "Images":
        """Half as high and wide, by means of two by two pixels.

        Raises:
          ValueError: height or width is odd.
        """
        N, H, W, C = self.pixels.shape
        if H % 2 or W % 2:
            raise ValueError(f"height and width must be even, not {H} and {W}")
        return self._replace(pixels=self.pixels.reshape(N, H // 2, 2, W // 2, 2, C).mean((2, 4)))


def digit_images() -> Images:
    """The digits set (Alpaydin and Kaynak 1998) as images, in scikit-learn: 1,797 of 8 x 8."""
    from sklearn.datasets import load_digits

    pixels, labels = map(np.asarray, load_digits(return_X_y=True))
    return Images((pixels / 16).astype(np.float32).reshape(-1, 8, 8, 1), labels.astype(np.int32))


def fashion_mnist(split: str = "train", folder: str | Path | None = None) -> Images:
    """Fashion-MNIST (Xiao et al. 2017, MIT licence), 28 x 28, ten kinds of clothes.

    Args:
      split: "train" (60,000) or "test" (10,000).
      folder: of the four idx files; None looks where Debian's dataset-fashion-mnist puts them.

    Raises:
      FileNotFoundError: they are not there; the message says how to get them.
      FileError: a file that is not idx.
      ValueError: another split.
    """
    if split not in ("train", "test"):
        raise ValueError(f"split must be train or test, not {split!r}")
    folder = Path(folder or _FASHION)
    stem = {"train": "train", "test": "t10k"}[split]
    paths = [folder / f"{stem}-{kind}-ubyte.gz" for kind in ("images-idx3", "labels-idx1")]
    if missing := [path for path in paths if not path.exists()]:
        raise FileNotFoundError(
            f"{missing[0]} is not there; install Debian's dataset-fashion-mnist, or take "
            "tfds_images('fashion_mnist', ...)"
        )
    pixels, labels = map(_idx, paths)
    return Images(pixels[..., None].astype(np.float32) / 255, labels.astype(np.int32))


def _idx(path: Path) -> np.ndarray:
    """An array of bytes in the format of MNIST."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(read_bytes(path))) as file:
            raw = file.read(_LARGEST_IDX + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise FileError(f"{path} is no gzip file: {error}") from error
    axes = raw[3] if raw[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * axes
    shape = tuple(int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes))
    if not axes or len(raw) - start != math.prod(shape):
        raise FileError(f"{path} is not an idx file of bytes, or a larger one")
    return np.frombuffer(raw, np.uint8, offset=start).reshape(shape)


def glyphs(characters: str, size: int = 14, copies: int = 20, seed: int = 0) -> Images:
    """Characters drawn with the twelve DejaVu fonts inside Matplotlib, each a class.

    Every drawing is turned, slanted, scaled and moved a little at random, and has some noise.

    Args:
      characters: the classes, in this order; DejaVu has Latin, Greek and Cyrillic, among others.
      size: H and W.
      copies: drawings of each character with each font.
      seed: of the distortions.

    Raises:
      ValueError: a font has no such character, or characters stand there twice.
    """
    import matplotlib
    from matplotlib.ft2font import FT2Font
    from PIL import ImageFont

    if len(set(characters)) != len(characters):
        raise ValueError("characters must be different")
    rng = np.random.default_rng((seed, size))
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    pixels, labels = [], []
    for face in _FACES:
        for style in _STYLES:
            path = folder / f"{face}{_style(face, style)}.ttf"
            known = FT2Font(str(path)).get_charmap()
            if missing := [c for c in characters if ord(c) not in known]:
                raise ValueError(f"{path.name} has no {missing[0]!r}")
            font = ImageFont.truetype(str(path), 3 * size)
            for label, character in enumerate(characters):
                drawn = _draw(font, character, size)
                pixels += [_distorted(drawn, size, rng) for _ in range(copies)]
                labels += [label] * copies
    stacked = np.stack(pixels).astype(np.float32) / 255
    stacked += 0.05 * rng.standard_normal(stacked.shape, np.float32)
    return Images(np.clip(stacked, 0, 1)[..., None], np.array(labels, np.int32))


def _style(face: str, style: str) -> str:
    return style.replace("Oblique", "Italic") if face == "DejaVuSerif" else style


def _draw(font, character: str, size: int):
    """Four times as large, in the middle."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (4 * size, 4 * size))
    ImageDraw.Draw(image).text((2 * size, 2 * size), character, 255, font, anchor="mm")
    return image


def _distorted(image, size: int, rng) -> np.ndarray:
    from PIL import Image

    angle, slant = rng.normal(0, 0.15), rng.normal(0, 0.15)
    scale = np.exp(rng.normal(0, 0.12, 2))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix = turn @ np.array([[1, slant], [0, 1]]) * scale
    middle = 2 * size
    shift = middle - matrix @ [middle, middle] + rng.normal(0, 0.2 * size, 2)
    entries = (*matrix[0], shift[0], *matrix[1], shift[1])
    moved = image.transform(image.size, Image.Transform.AFFINE, entries, Image.Resampling.BILINEAR)
    return np.asarray(moved.resize((size, size), Image.Resampling.BOX))


def tfds_images(
    name: str,
    split: str,
    size: int = 0,
    count: int | None = None,
    eight_bits: bool = False,
    data_dir: str | Path | None = None,
) -> Images:
    """Images of a TensorFlow Datasets set, downloaded at first use, without TensorFlow.

    Args:
      name: such as "fashion_mnist", "imagenet2012" or "places365_small".
      split: of the set, such as "train".
      size: H and W that all are brought to; 0 takes them as they are, all of one size.
      count: only the first `count` images; None takes all.
      eight_bits: pixels as they are stored, 0 to 255, a quarter of the memory.
      data_dir: where prepared sets lie; None is TFDS's own folder.

    Raises:
      ImportError: tensorflow-datasets is not installed.
      FileNotFoundError: the set is not there and cannot be downloaded; the message says what to do.
      ValueError: TFDS knows no such set or split, or it has no images with labels.
    """
    from PIL import Image

    source = tfds_source(name, split, data_dir)
    if len(source) and not {"image", "label"} <= source[0].keys():
        raise ValueError(f"TFDS set {name!r} has no images with labels, but {', '.join(source[0])}")
    pixels, labels = [], []
    for index in range(len(source) if count is None else min(count, len(source))):
        example = source[index]
        image = np.asarray(example["image"])
        if size:
            squeezed = Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image)
            image = np.asarray(squeezed.resize((size, size), Image.Resampling.BOX))
            image = image.reshape(size, size, -1)
        pixels.append(image)
        labels.append(example["label"])
    stacked = np.stack(pixels)
    if not eight_bits:
        stacked = stacked.astype(np.float32) / 255
    return Images(stacked, np.array(labels, np.int32))
