"""Letters of many scripts as classes for few-shot learning, drawn from fonts.

Dimension key: K classes, N drawings of a class, F faces, H height and width.
"""

from __future__ import annotations

import functools
import importlib.metadata
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ico.data import _distort
from ico.data._distort import Distortion, distort
from ico.data._few_shot import ClassImages
from ico.files import cached

# Scripts of the fonts inside Matplotlib, by the first word of their letters' Unicode names.
SCRIPTS = (
    "LATIN",
    "GREEK",
    "CYRILLIC",
    "GEORGIAN",
    "ARABIC",
    "CANADIAN",
    "OLD",
    "NKO",
    "COPTIC",
    "ARMENIAN",
    "HEBREW",
    "LAO",
    "TIFINAGH",
    "LISU",
    "OGHAM",
)
# Script, letter, and the fonts that have it.
Letter = tuple[str, str, list[Path]]
_NOTO = Path("/usr/share/fonts/truetype/noto")
_FACES = ("DejaVuSans", "DejaVuSerif", "DejaVuSansMono", "STIXGeneral")
_TWINS = 0.9  # cosine of two letters' images above which they are one class
_HAND = Distortion(turn=0.12, slant=0.12, scale=0.1, shift=0.04, elastic=0.035)


@functools.lru_cache(maxsize=4)
def letters(
    size: int = 28, drawings: int = 20, *, noto: bool = False, seed: int = 0
) -> ClassImages:
    """Letters of fifteen scripts, hundreds of classes; the groups are the scripts.

    Each drawing has one of the fonts' faces (a drawer, so to speak) and is turned, slanted,
    scaled, moved and bent at random. Letters fill the same box whatever their size in the font, and
    of letters that look alike, turned by quarters or not, only the first is taken: in Latin, Greek
    and Cyrillic "A" is one class, and no class of one script stands in another. What was drawn once
    is kept on disk (`ico.files.cached`) while fonts, libraries and this code stay as they are.

    Args:
      size: H.
      drawings: N.
      noto: with the scripts of Debian's fonts-noto-core as well, where that is installed.
      seed: of the distortions.

    Raises:
      FileNotFoundError: `noto` without those fonts.
      ValueError: a size below 4, or no drawing.
    """
    if size < 4 or drawings < 1:
        raise ValueError(f"want size >= 4 and drawings >= 1, not {size} and {drawings}")
    paths = [*_matplotlib_fonts(), *(_noto_fonts() if noto else [])]
    depends_on = {
        "arguments": [size, drawings, noto, seed],
        "fonts": [(path.name, path.stat().st_size) for path in paths],
        "libraries": {n: importlib.metadata.version(n) for n in ("matplotlib", "pillow", "jax")},
        "code": [Path(file).read_text() for file in (__file__, _distort.__file__)],
    }
    found = cached("letters", depends_on, lambda: _all_drawn(size, drawings, noto, seed))
    names, groups = (tuple(str(name) for name in found[field]) for field in ("names", "groups"))
    return ClassImages(found["pixels"], found["counts"], names, groups)


def tfds_letters(**options):
    """The TFDS builder `letters/1.0.0` (ArrayRecord, no TensorFlow); registers it, too.

    Its one split, "train", has 20 drawings of 28 x 28 of every class of `letters()`.

        builder = tfds_letters(data_dir="...")
        builder.download_and_prepare(file_format="array_record")
        source = builder.as_data_source(split="train")

    Args:
      **options: of `tfds.core.GeneratorBasedBuilder`.

    Raises:
      ModuleNotFoundError: tensorflow-datasets is not installed (extra "data").
    """
    from ico.data._letters_builder import Letters

    return Letters(**options)


def _all_drawn(size: int, drawings: int, noto: bool, seed: int) -> dict[str, np.ndarray]:
    """The fields of a `ClassImages`, as arrays."""
    faces, names, groups = [], [], []
    for script, letter, fonts in _different([*_matplotlib_letters(), *_noto_letters(noto)]):
        drawn = [image for path in fonts if (image := _draw(path, letter, 2 * size)) is not None]
        faces.append(np.stack(drawn))
        names.append(letter)
        groups.append(script)
    return {
        "pixels": _drawn_by_hand(faces, drawings, jax.random.key(seed)),
        "counts": np.full(len(faces), drawings, np.int32),
        "names": np.array(names),
        "groups": np.array(groups),
    }


def _matplotlib_fonts() -> list[Path]:
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [path for path in sorted(folder.glob("*.ttf")) if path.stem.startswith(_FACES)]
    # The plain DejaVu Sans has every letter, and shows what it looks like.
    return sorted(paths, key=lambda path: (path.stem != "DejaVuSans", path.stem))


def _noto_fonts() -> list[Path]:
    """Scripts that Matplotlib's fonts lack: each has its own file, Noto<Style><Script>-<Face>."""
    files = sorted(_NOTO.glob("Noto*-*.ttf"))
    if not files:
        raise FileNotFoundError(f"{_NOTO} has no Noto fonts; install Debian's fonts-noto-core")
    return files


def _matplotlib_letters() -> Iterator[Letter]:
    yield from _letters_of(_matplotlib_fonts(), SCRIPTS)


def _noto_letters(wanted: bool) -> Iterator[Letter]:
    if wanted:
        yield from _letters_of(_noto_fonts(), None)


def _letters_of(paths: list[Path], scripts: tuple[str, ...] | None) -> Iterator[Letter]:
    """Script, letter and the fonts that have it; with `scripts` None all but those of SCRIPTS."""
    from matplotlib.ft2font import FT2Font

    fonts: dict[str, list[Path]] = {}
    for path in paths:
        for code in FT2Font(str(path)).get_charmap():
            fonts.setdefault(chr(code), []).append(path)
    found: dict[str, list[str]] = {}
    for letter in sorted(fonts):
        is_letter = unicodedata.category(letter) in ("Lu", "Ll", "Lo")
        if is_letter and not unicodedata.decomposition(letter):
            found.setdefault(unicodedata.name(letter, "?").split()[0], []).append(letter)
    for script in scripts or sorted(set(found) - set(SCRIPTS)):
        yield from ((script, letter, fonts[letter]) for letter in found.get(script, []))


@functools.lru_cache(maxsize=256)
def _font(path: Path, size: int):
    from PIL import ImageFont

    return ImageFont.truetype(str(path), size)


def _draw(path: Path, letter: str, size: int) -> np.ndarray | None:
    """A letter that fills the middle three quarters of [size, size]; None if it is but a dot."""
    from PIL import Image, ImageDraw

    large = 2 * size
    image, middle = Image.new("L", (large, large)), (large // 2, large // 2)
    ImageDraw.Draw(image).text(middle, letter, 255, _font(path, size), anchor="mm")
    box = image.getbbox()
    if box is None:
        return None
    width, height = box[2] - box[0], box[3] - box[1]
    if max(width, height) < 0.3 * size:
        return None
    scale = 0.72 * size / max(width, height)
    shape = max(1, round(width * scale)), max(1, round(height * scale))
    whole = Image.new("L", (size, size))
    glyph = image.crop(box).resize(shape, Image.Resampling.BILINEAR)
    whole.paste(glyph, ((size - shape[0]) // 2, (size - shape[1]) // 2))
    return np.asarray(whole)


def _different(letters_: Iterable[Letter]) -> list[Letter]:
    """The letters that no earlier one looks like, turned by any quarter."""
    shown = [(letter, image) for letter in letters_ if (image := _seen(letter)) is not None]
    images_KHH = np.stack([image for _, image in shown]).astype(np.float32)
    K = len(images_KHH)
    turned = np.stack([np.rot90(images_KHH, quarter, axes=(1, 2)) for quarter in range(4)], 1)
    flat = (turned - turned.mean(axis=(2, 3), keepdims=True)).reshape(K, 4, -1)
    flat /= np.linalg.norm(flat, axis=-1, keepdims=True)
    alike_KK = np.stack([flat[:, 0] @ flat[:, quarter].T for quarter in range(4)]).max(0)
    kept: list[int] = []
    for k in range(K):
        if not kept or alike_KK[k, kept].max() < _TWINS:
            kept.append(k)
    return [shown[k][0] for k in kept]


def _seen(letter: Letter) -> np.ndarray | None:
    """How a letter looks in its first font, [14, 14]."""
    _, character, fonts = letter
    drawn = _draw(fonts[0], character, 56)
    return None if drawn is None else drawn.reshape(14, 4, 14, 4).mean((1, 3))


def _drawn_by_hand(faces: list[np.ndarray], drawings: int, key) -> np.ndarray:
    """uint8 [K, N, H, H, 1]: drawings of every class, its faces in turn, each distorted."""
    chosen = np.stack([f[np.arange(drawings) % len(f)] for f in faces])
    K, N, S, _ = chosen.shape

    @jax.jit
    def by_hand(key, images_NSS):
        moved = distort(key, images_NSS[..., None].astype(jnp.float32), _HAND)
        small = moved.reshape(N, S // 2, 2, S // 2, 2, 1).mean((2, 4))
        return jnp.round(small).astype(jnp.uint8)

    keys = jax.random.split(key, K)
    return np.stack([np.asarray(by_hand(keys[k], chosen[k])) for k in range(K)])
