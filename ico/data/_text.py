"""English text that comes with packages, and byte-pair tokens trained on it.

Dimension key: N tokens, R rows, T tokens in a row.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int

_DOCS = Path("/usr/share/doc")
_SOURCES = "html/_sources"
_MARKUP = re.compile(
    r":[\w:+-]+:`([^`<]*?)(?:\s*<[^`>]*>)?`|``([^`]*)``|\*\*([^*]*)\*\*|\*([^*]*)\*"
)


def pydoc_topics() -> list[str]:
    """The help topics of CPython itself: some 470,000 characters of English on Python."""
    from pydoc_data.topics import topics

    return [topics[name] for name in sorted(topics)]


def python_docs(folder: str | Path | None = None) -> list[str]:
    """The prose of Python's documentation, one text a page: some five million characters.

    Paragraphs alone: code, tables, headings and directives are left out, and markup is taken off.
    Licence: Python Software Foundation.

    Args:
      folder: of the pages, `*.rst.txt` or `*.rst`; None looks where Debian's python3-doc puts them.

    Raises:
      FileNotFoundError: there are none; the message says how to get them.
    """
    if folder is None:
        # Several packages may link to one folder.
        found = sorted({path.resolve() for path in _DOCS.glob(f"python3*-doc/{_SOURCES}")})
        folder = found[-1] if found else _DOCS / "python3-doc" / _SOURCES
    pages = sorted([*Path(folder).rglob("*.rst.txt"), *Path(folder).rglob("*.rst")])
    if not pages:
        raise FileNotFoundError(
            f"no pages of Python's documentation in {folder}; install Debian's python3-doc, or "
            "give the folder Doc of a CPython source tree"
        )
    texts = (_prose(path.read_text(encoding="utf-8", errors="replace")) for path in pages)
    return [text for text in texts if text]


def _prose(page: str) -> str:
    """The paragraphs of a reStructuredText page that read as sentences."""
    kept = []
    for block in re.split(r"\n\s*\n", page):
        lines = block.splitlines()
        text = " ".join(line.strip() for line in lines)
        if text.startswith(("..", ">>>", "|", "+", "=", ":")) or len(text) < 80:
            continue
        # Sentences: they end in a full stop or colon, and are made of words.
        plain = _MARKUP.sub(lambda m: next((g for g in m.groups() if g), "").lstrip("~!"), text)
        letters = sum(c.isalpha() or c == " " for c in plain)
        if plain.rstrip().endswith((".", ":", "?", "!")) and letters >= 0.85 * len(plain):
            kept.append(plain.strip())
    return "\n".join(kept)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-pair tokenizer of the tokenizers library, trained on these texts alone."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def tokens(texts: Iterable[str], tokenizer: Any) -> Int[np.ndarray, "N"]:
    """The texts one behind the other, a newline after each."""
    newline = tokenizer.encode("\n").ids
    ids = [np.array(tokenizer.encode(text).ids + newline, np.int32) for text in texts]
    return np.concatenate(ids) if ids else np.zeros(0, np.int32)


def token_rows(ids: Int[np.ndarray, "N"], length: int) -> Int[np.ndarray, "R T"]:
    """Rows of length + 1 tokens, each beginning with the last token of the one before.

    So every token but the first is predicted once. What is left at the end is dropped.

    Args:
      ids: tokens, such as those of `tokens`.
      length: T - 1, the predictions in a row.
    """
    starts_R1 = length * np.arange(max(len(ids) - 1, 0) // length)[:, None]
    return ids[starts_R1 + np.arange(length + 1)]
