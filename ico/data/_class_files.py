"""Images by class from files: Omniglot's handwriting, and a folder of photographs for each class.

Dimension key: H height and width.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ico.data._few_shot import ClassImages
from ico.data._tfds import tfds_source
from ico.files import FileError


def omniglot(
    folder: str | Path | None = None, size: int = 28, data_dir: str | Path | None = None
) -> ClassImages:
    """Handwritten characters (Lake et al. 2015), their alphabets as groups.

    Args:
      folder: of the original files, with any of `images_background*.zip` and
        `images_evaluation.zip`, or their folders `<alphabet>/<character>/*.png`. An alphabet that
        is in two of them counts once. None takes both splits of TFDS's `omniglot`, 1,623
        characters of 50 alphabets, downloaded at first use.
      size: H; strokes are white, as in `letters`.
      data_dir: where TFDS's prepared sets lie; None is its own folder.

    Raises:
      FileNotFoundError: there is nothing of the kind, or no connection to download it.
      FileError: a zip or an image that cannot be read, or an image that is no character's.
      ImportError: without a folder, tensorflow-datasets is not installed.
    """
    if folder is None:
        return _tfds_omniglot(size, data_dir)
    found: dict[str, dict[str, np.ndarray]] = {}
    for path, data in _png_files(Path(folder)):
        if path.count("/") < 2:
            raise FileError(f"{folder} has {path}, which is no <alphabet>/<character>/<image>")
        *_, alphabet, character, name = path.split("/")
        found.setdefault(f"{alphabet}/{character}", {})[name] = _ink(
            _opened(io.BytesIO(data), path), size
        )
    if not found:
        raise FileNotFoundError(
            f"{folder} has no images_background.zip or images_evaluation.zip of Omniglot, nor "
            "folders <alphabet>/<character>/*.png"
        )
    images = {name: np.stack([f[k] for k in sorted(f)]) for name, f in sorted(found.items())}
    return ClassImages.of(images, {name: name.split("/")[0] for name in images})


def _tfds_omniglot(size: int, data_dir: str | Path | None) -> ClassImages:
    images: dict[str, list[np.ndarray]] = {}
    for split in ("train", "test"):
        source = tfds_source("omniglot", split, data_dir)
        name_of = source.dataset_info.features["alphabet"].int2str
        for index in range(len(source)):
            example = source[index]
            alphabet = name_of(int(example["alphabet"]))
            character = f"{alphabet}/{int(example['alphabet_char_id']):02d}"
            images.setdefault(character, []).append(_ink(Image.fromarray(example["image"]), size))
    groups = {name: name.split("/")[0] for name in images}
    return ClassImages.of({name: np.stack(found) for name, found in images.items()}, groups)


def _png_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    for path in sorted(folder.glob("images_*.zip")):
        try:
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if name.endswith(".png") and not name.startswith("__MACOSX"):
                        yield name, archive.read(name)
        except (OSError, zipfile.BadZipFile) as error:
            raise FileError(f"{path} cannot be read as a zip: {error}") from error
    for path in sorted(folder.glob("**/*/*/*.png")):
        yield path.relative_to(folder).as_posix(), path.read_bytes()


def _opened(file: Path | io.BytesIO, name: str | Path) -> Image.Image:
    try:
        return Image.open(file)
    except (UnidentifiedImageError, OSError) as error:
        raise FileError(f"{name} cannot be read as an image: {error}") from error


def _ink(image: Image.Image, size: int) -> np.ndarray:
    small = image.convert("L").resize((size, size), Image.Resampling.BOX)
    return 255 - np.asarray(small)[..., None]


def image_folder(folder: str | Path, size: int = 84) -> ClassImages:
    """Photographs from a folder with a folder of images for each class: mini-ImageNet, say.

    Images are cut to their middle square and brought to size x size, in colour.

    Raises:
      FileNotFoundError: there is no folder with images.
      FileError: an image that cannot be read.
    """
    found = {}
    for path in sorted(Path(folder).iterdir()) if Path(folder).is_dir() else []:
        files = sorted(f for f in path.glob("*") if f.suffix.lower() in (".png", ".jpg", ".jpeg"))
        if files:
            images = [ImageOps.fit(_opened(f, f).convert("RGB"), (size, size)) for f in files]
            found[path.name] = np.stack([np.asarray(image) for image in images])
    if not found:
        raise FileNotFoundError(f"{folder} has no folders of images, one for each class")
    return ClassImages.of(found)
