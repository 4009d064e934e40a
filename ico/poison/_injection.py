"""Putting a text into a stream of clean batches.

Sun et al. 2025 (arXiv 2504.09522): one row of the minibatch is replaced by the text, in each of
20 (Alpaca) or 40 (Wikipedia) minibatches, or in one of every K.

Dimension key: B rows, T tokens.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from ico.train import Stream
from ico.types import TokenBatch


def as_batch(rows: list[list[int]], length: int) -> TokenBatch:
    """Rows cut or padded on the right to `length` tokens; padding is not a target."""
    ids = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), np.float32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row[:length]
        mask[i, : len(row)] = 1
    return TokenBatch(ids, mask)


def inject(
    clean: Iterable[TokenBatch],
    texts: Sequence[list[int]],
    *,
    presentations: int,
    spacing: int = 1,
    row: int = 0,
) -> Iterator[TokenBatch]:
    """The stream with each text in place of one row of every `spacing`-th batch.

    Args:
      clean: batches; they are taken one by one, and passed on unchanged after the last
        presentation. If it is a Stream of `ico.train`, the result is one too, and a training on it
        can be resumed.
      texts: token ids, cut or padded to the batch's length; several are injected together.
      presentations: how often every text appears in the stream.
      spacing: K; the first presentation is in the first batch.
      row: which row the first text replaces; the others replace the next ones.

    Raises:
      ValueError: fewer than one presentation, a spacing below one, no text or an empty one; (while
        iterating) more texts than rows.
    """
    if presentations < 1 or spacing < 1 or not texts or not all(texts):
        raise ValueError("inject needs texts, presentations >= 1 and spacing >= 1")
    return _Injected(clean, texts, presentations, spacing, row)


class _Changed:
    """Batches of a source, each changed: a Stream of `ico.train` if the source is one.

    Fields:
      count: batches given so far.
    """

    def __init__(self, clean: Iterable[TokenBatch]):
        self._clean, self.count = clean, 0
        self._batches: Any = clean if isinstance(clean, Stream) else iter(clean)

    def __iter__(self) -> Iterator[TokenBatch]:
        """Itself."""
        return self

    def __next__(self) -> TokenBatch:
        """The next batch of the source, changed."""
        batch = self._change(next(self._batches))
        self.count += 1
        return batch

    def _change(self, batch: TokenBatch) -> TokenBatch:
        raise NotImplementedError

    def position(self) -> dict[str, Any]:
        """The count, and the source's position. Raises TypeError if the source has none."""
        return {"count": self.count, "clean": self._restorable().position()}

    def restore(self, position: dict[str, Any]) -> None:
        """Goes to a position. Raises TypeError if the source cannot."""
        self._restorable().restore(position["clean"])
        self.count = position["count"]

    def _restorable(self) -> Stream:
        if not isinstance(self._clean, Stream):
            raise TypeError(
                "the clean batches are a plain iterator, which has no position to go on from; "
                "give a Stream such as poison.CleanBatches, or train without a directory"
            )
        return self._clean


class _Injected(_Changed):
    """What `inject` returns."""

    def __init__(self, clean, texts, presentations, spacing, row):
        super().__init__(clean)
        self._texts, self._row = texts, row
        self._presentations, self._spacing = presentations, spacing

    def _change(self, batch: TokenBatch) -> TokenBatch:
        number, rest = divmod(self.count, self._spacing)
        here = rest == 0 and number < self._presentations
        return put(batch, self._texts, self._row) if here else batch


def put(batch: TokenBatch, texts: Sequence[list[int]], row: int = 0) -> TokenBatch:
    """A copy of the batch with texts in place of rows, from `row` on.

    Raises:
      ValueError: more texts than rows.
    """
    num_rows, length = batch.ids.shape
    if row + len(texts) > num_rows:
        raise ValueError(f"{len(texts)} texts from row {row} on do not fit in {num_rows} rows")
    new = as_batch(list(texts), length)
    ids, mask = np.array(batch.ids), np.array(batch.mask)
    ids[row : row + len(texts)] = new.ids
    mask[row : row + len(texts)] = new.mask
    return TokenBatch(ids, mask)


def replay(
    clean: Iterable[TokenBatch], text: list[int], *, rate: float, seed: int = 0
) -> Iterator[TokenBatch]:
    """The stream with each row replaced by `text` with probability `rate`: the truth, seen again.

    A fact that contradicts the stream is unlearned faster the more often the stream shows the
    truth, so retention has to be measured at a known rate. As with `inject`, the result is a Stream
    if `clean` is one.

    Raises:
      ValueError: a rate outside [0, 1], or an empty text.
    """
    if not 0 <= rate <= 1 or not text:
        raise ValueError(f"replay needs a text and a rate in [0, 1], not {rate}")
    return _Replayed(clean, text, rate, seed)


class _Replayed(_Changed):
    """What `replay` returns."""

    def __init__(self, clean, text, rate, seed):
        super().__init__(clean)
        self._text, self._rate, self._seed = text, rate, seed
        self._go_to(0)

    def _go_to(self, rows: int) -> None:
        """Draws on as after `rows` rows: each takes one number of the generator."""
        self._rows, generator = rows, np.random.PCG64(self._seed)
        self._draw = np.random.Generator(generator.advance(rows))

    def _change(self, batch: TokenBatch) -> TokenBatch:
        told = np.flatnonzero(self._draw.random(len(batch.ids)) < self._rate)
        self._rows += len(batch.ids)
        for row in told:
            batch = put(batch, [self._text], int(row))
        return batch

    def position(self) -> dict[str, Any]:
        return super().position() | {"rows": self._rows}

    def restore(self, position: dict[str, Any]) -> None:
        super().restore(position)
        self._go_to(position["rows"])
