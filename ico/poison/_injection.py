"""Putting a text into a stream of clean batches.

Sun et al. 2025 (arXiv 2504.09522): one row of the minibatch is replaced by the text, in each of
20 (Alpaca) or 40 (Wikipedia) minibatches, or in one of every K.

Dimension key: B rows, T tokens.
"""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

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
        presentation.
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
    return _inject(clean, texts, presentations, spacing, row)


def _inject(clean, texts, presentations, spacing, row):
    for index, batch in enumerate(clean):
        if index % spacing == 0 and index // spacing < presentations:
            batch = put(batch, texts, row)
        yield batch


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
    truth, so retention has to be measured at a known rate.

    Raises:
      ValueError: a rate outside [0, 1], or an empty text.
    """
    if not 0 <= rate <= 1 or not text:
        raise ValueError(f"replay needs a text and a rate in [0, 1], not {rate}")
    return _replay(clean, text, rate, np.random.default_rng(seed))


def _replay(clean, text, rate, draw):
    for batch in clean:
        for row in np.flatnonzero(draw.random(len(batch.ids)) < rate):
            batch = put(batch, [text], int(row))
        yield batch
