"""Arrays on disk, as numpy, and text. Nothing here knows a task."""

from ico.data._tables import breast_cancer, diabetes, digits, wine
from ico.data._text import pydoc_topics, python_docs, tokens, train_bpe

__all__ = [
    "breast_cancer",
    "diabetes",
    "digits",
    "pydoc_topics",
    "python_docs",
    "tokens",
    "train_bpe",
    "wine",
]
