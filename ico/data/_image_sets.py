"""Images by a name, as configurations have it."""

from pathlib import Path

from ico.data._images import ALPHABETS, Images, digit_images, fashion_mnist, glyphs, tfds_images

# Names of photographs, their data set in TFDS, and the part of its classes: (first, last) halves.
_PHOTOS = {
    "ImageNet": ("imagenet2012", ""),
    "Places": ("places365_small", "first"),
    "Places, other classes": ("places365_small", "second"),
}


def images(
    name: str,
    *,
    size: int = 14,
    copies: int = 20,
    photo_size: int = 224,
    photos: int = 8_000,
    data_dir: str | Path | None = None,
) -> Images:
    """Labelled images by name; classes are numbered from 0.

    Args:
      name: "digits 5-9" or "clothes 0-4" (Fashion-MNIST at 14 x 14): a data set and the first and
        last class; "Latin", "Greek" or "Cyrillic": drawn letters; "letters": ten Latin ones of
        8 x 8, as digits have; "ImageNet", "Places" or "Places, other classes": photographs.
      size, copies: of drawn letters: height and width, and drawings with each font.
      photo_size, photos: of photographs: height and width, and how many at most.
      data_dir: of photographs: where prepared sets of TFDS lie; None is TFDS's own folder.

    Raises:
      KeyError: an unknown name.
      FileNotFoundError: Fashion-MNIST is not installed, or photographs cannot be downloaded.
    """
    kind, _, classes = name.partition(" ")
    if kind in ("digits", "clothes"):
        first, last = map(int, classes.split("-"))
        found = digit_images() if kind == "digits" else fashion_mnist("train").shrunk()
        return found.of_classes(range(first, last + 1))
    if name == "letters":
        return glyphs(ALPHABETS["Latin"][:10], 8, copies)
    if name in ALPHABETS:
        return glyphs(ALPHABETS[name], size, copies)
    source, half = _PHOTOS[name]
    found = tfds_images(source, "train", photo_size, photos, True, data_dir)
    middle = int(found.labels.max()) // 2
    if not half:
        return found
    return found.of_classes(range(middle) if half == "first" else range(middle, 2 * middle))
