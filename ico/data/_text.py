"""English text from packages and data sets, byte-pair tokens trained on it, rows of tokens.

Dimension key: N rows (of `tokens`: tokens), T tokens of a row.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from ico.data._tfds import tfds_source

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

    Only paragraphs: code, tables, headings, directives and markup are removed.
    Licence: Python Software Foundation.

    Args:
      folder: of the pages, `*.rst.txt` or `*.rst`; None is where Debian's python3-doc puts them.

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
        # Sentences end in punctuation and consist mostly of letters.
        plain = _MARKUP.sub(lambda m: next((g for g in m.groups() if g), "").lstrip("~!"), text)
        letters = sum(c.isalpha() or c == " " for c in plain)
        if plain.rstrip().endswith((".", ":", "?", "!")) and letters >= 0.85 * len(plain):
            kept.append(plain.strip())
    return "\n".join(kept)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Any:
    """A byte-pair tokenizer of the tokenizers library, trained on these texts."""
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


class TextRows(NamedTuple):
    """Texts cut into rows of equal length."""

    ids: Int[np.ndarray, "N T"]
    text: Int[np.ndarray, "N"]  # the number of the text that each row (for joined: its end) is from


def text_rows(
    texts: Iterable[str],
    encode: Callable[[str], Sequence[int]],
    length: int,
    *,
    num_rows: int | None = None,
    overlap: int = 0,
    joined: bool = False,
) -> TextRows:
    """Cuts tokenised texts into rows; the incomplete row at the end is dropped.

    Args:
      texts: read only as far as needed.
      encode: text -> token ids, such as the method of an `ico.lm.Tokenizer`.
      length: T, tokens of a row.
      num_rows: N; None takes all there are.
      overlap: tokens that a row shares with the one before: 1 where a row's last token is only a
        target, so that no target is lost between rows.
      joined: whether rows run on from one text into the next, so that less is dropped.

    Raises:
      ValueError: the texts give fewer than `num_rows` rows, or none; or `overlap` is not below
        `length`.
    """
    if not 0 <= overlap < length:
        raise ValueError(f"overlap must be at least 0 and below length {length}, not {overlap}")
    rows: list[Sequence[int]] = []
    source: list[int] = []
    rest: list[int] = []
    for number, text in enumerate(texts):
        ids = [*rest, *encode(text)]
        starts = range(0, len(ids) - length + 1, length - overlap)
        rows += [ids[i : i + length] for i in starts]
        source += [number] * len(starts)
        rest = ids[len(starts) * (length - overlap) :] if joined else []
        if num_rows is not None and len(rows) >= num_rows:
            break
    if len(rows) < (num_rows or 1):
        raise ValueError(
            f"the texts gave {len(rows)} rows of {length} tokens; {num_rows or 1} are needed"
        )
    return TextRows(np.array(rows[:num_rows], np.int32), np.array(source[:num_rows], np.int32))


def tfds_texts(
    name: str,
    split: str = "train",
    feature: str = "text",
    data_dir: str | Path | None = None,
) -> Iterator[str]:
    """The texts of a TensorFlow Datasets set, downloaded at first use; needs no TensorFlow.

    Args:
      name: such as "wikipedia/20230601.en", which TFDS prepares with apache-beam and
        mwparserfromhell.
      split, feature: of the set.
      data_dir: where prepared sets lie; None is TFDS's own folder.

    Raises:
      ImportError: tensorflow-datasets is not installed.
      FileNotFoundError: the set is not there and cannot be downloaded or prepared; the message says
        what to do.
      ValueError: TFDS knows no such set or split, or it has no such feature.
    """
    source = tfds_source(name, split, data_dir)
    if len(source) and feature not in source[0]:
        raise ValueError(f"TFDS set {name!r} has no {feature!r}, but {', '.join(source[0])}")
    return (_as_text(example[feature]) for example in source)


def _as_text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
