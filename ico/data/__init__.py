"""Arrays on disk, as numpy, images and text. Nothing here knows a task."""

from ico.data._class_files import image_folder, omniglot
from ico.data._distort import Distortion, distort
from ico.data._few_shot import ClassArrays, ClassImages, FewShot, few_shot
from ico.data._image_sets import images
from ico.data._images import (
    ALPHABETS,
    Images,
    digit_images,
    fashion_mnist,
    glyphs,
    tfds_images,
)
from ico.data._letters import SCRIPTS, letters, tfds_letters
from ico.data._tables import breast_cancer, diabetes, digits, wine
from ico.data._text import (
    TextRows,
    pydoc_topics,
    python_docs,
    text_rows,
    tfds_texts,
    tokens,
    train_bpe,
)

__all__ = [
    "ALPHABETS",
    "ClassArrays",
    "ClassImages",
    "Distortion",
    "FewShot",
    "Images",
    "SCRIPTS",
    "TextRows",
    "breast_cancer",
    "diabetes",
    "digit_images",
    "digits",
    "distort",
    "fashion_mnist",
    "few_shot",
    "glyphs",
    "image_folder",
    "images",
    "letters",
    "omniglot",
    "pydoc_topics",
    "python_docs",
    "text_rows",
    "tfds_images",
    "tfds_letters",
    "tfds_texts",
    "tokens",
    "train_bpe",
    "wine",
]
