"""Arrays on disk, as numpy, images and text. Nothing here knows a task."""

from ico.data._images import Images, digit_images, fashion_mnist, glyphs, tfds_images
from ico.data._tables import breast_cancer, diabetes, digits, wine
from ico.data._text import pydoc_topics, python_docs, token_rows, tokens, train_bpe

__all__ = [
    "Images",
    "breast_cancer",
    "diabetes",
    "digit_images",
    "digits",
    "fashion_mnist",
    "glyphs",
    "pydoc_topics",
    "python_docs",
    "tfds_images",
    "token_rows",
    "tokens",
    "train_bpe",
    "wine",
]
