"""Clean text to train on beside a fact: the model's own, or any texts.

Dimension key: N rows, T tokens.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from jaxtyping import Int

from ico.lm import LanguageModel, Tokenizer, generate_ids
from ico.poison._injection import Batch

_AT_ONCE = 512  # rows, whose keys and values must fit in memory


def own_text(
    lm: LanguageModel, num_rows: int, length: int, *, seed: int = 0
) -> Int[np.ndarray, "N T"]:
    """Clean rows sampled from the model itself at temperature 1, each from a word of its own.

    The offline stand-in for the data that the model was trained on: on it, a step of training
    changes a model in expectation not at all.
    """
    draw = np.random.default_rng(seed)
    start = lm.tokenizer.bos_id if lm.tokenizer is not None and lm.tokenizer.adds_bos else None
    ends = lm.tokenizer.eos_id if lm.tokenizer is not None else None
    special = set() if ends is None else {ends}
    words = [i for i in range(min(lm.config.vocab_size, 20_000)) if i not in special]
    firsts = draw.choice(words[256:] or words, num_rows).tolist()
    prompts = [[first] if start is None else [start, first] for first in firsts]
    more: list[list[int]] = []
    for place in range(0, num_rows, _AT_ONCE):
        more += generate_ids(
            lm.params,
            lm.config,
            prompts[place : place + _AT_ONCE],
            max_tokens=length - len(prompts[0]),
            temperature=1.0,
            seed=seed + place,
        )
    return np.array([a + b for a, b in zip(prompts, more, strict=True)], np.int32)


def text_rows(
    texts: Iterable[str], tokenizer: Tokenizer, num_rows: int, length: int
) -> Int[np.ndarray, "N T"]:
    """Rows cut one behind the other from tokenised texts, such as those of `tfds_texts`.

    Raises:
      ValueError: the texts are too few.
    """
    rows: list[list[int]] = []
    for text in texts:
        ids = tokenizer.encode(text)
        rows += [ids[i : i + length] for i in range(0, len(ids) - length + 1, length)]
        if len(rows) >= num_rows:
            return np.array(rows[:num_rows], np.int32)
    raise ValueError(f"the texts gave {len(rows)} rows of {length} tokens; {num_rows} are needed")


def tfds_texts(name: str, split: str = "train", feature: str = "text") -> Iterator[str]:
    """The texts of a TensorFlow Datasets set, for users with a network, without TensorFlow.

    Args:
      name: such as "wikipedia/20230601.en".
      split, feature: of the set.
    """
    import tensorflow_datasets as tfds

    source: Any = tfds.data_source(name, split=split, download=True)
    for example in source:
        text = example[feature]
        yield text.decode("utf-8") if isinstance(text, bytes) else str(text)


class CleanBatches:
    """Endless batches from a pool of rows, in an order drawn anew for each pass over it.

    A Stream of `ico.train`: position and order depend on seed and count alone.
    """

    def __init__(self, rows: Int[np.ndarray, "N T"], batch_size: int, *, seed: int = 0):
        """Raises ValueError if the pool is smaller than a batch."""
        if not 1 <= batch_size <= len(rows):
            raise ValueError(f"{len(rows)} rows cannot fill batches of {batch_size}")
        self._rows, self._size, self._seed = rows, batch_size, seed
        self._count = 0

    def __iter__(self):
        """Itself."""
        return self

    def __next__(self) -> Batch:
        """The next batch; every token counts."""
        a_pass = len(self._rows) // self._size
        order = np.random.default_rng((self._seed, self._count // a_pass)).permutation(
            len(self._rows)
        )
        first = self._count % a_pass * self._size
        ids = self._rows[order[first : first + self._size]]
        self._count += 1
        return Batch(ids, np.ones(ids.shape, np.float32))

    def position(self) -> int:
        """How many batches were given."""
        return self._count

    def restore(self, position: int) -> None:
        """Goes to a position."""
        self._count = int(position)
