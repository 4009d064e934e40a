"""Clean text to train on beside a fact: sampled from the model, and batches of any rows.

Dimension key: N rows, T tokens.
"""

import numpy as np
from jaxtyping import Int

from ico.lm import LanguageModel, generate_ids
from ico.types import TokenBatch

_AT_ONCE = 512  # rows sampled together, whose keys and values must fit in memory


def own_text(
    lm: LanguageModel, num_rows: int, length: int, *, seed: int = 0
) -> Int[np.ndarray, "N T"]:
    """Clean rows sampled from the model itself at temperature 1, each from a different first token.

    An offline substitute for the model's training data: on its own samples a model's expected
    gradient is zero.
    """
    draw = np.random.default_rng(seed)
    start = lm.tokenizer.bos_id if lm.tokenizer is not None and lm.tokenizer.adds_bos else None
    special = set(lm.tokenizer.eos_ids) if lm.tokenizer is not None else set()
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


class CleanBatches:
    """Endless batches from a pool of rows, reshuffled for each pass over it.

    A Stream of `ico.train`: what comes next depends on seed and position alone.
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

    def __next__(self) -> TokenBatch:
        """The next batch; every token counts."""
        a_pass = len(self._rows) // self._size
        order = np.random.default_rng((self._seed, self._count // a_pass)).permutation(
            len(self._rows)
        )
        first = self._count % a_pass * self._size
        ids = self._rows[order[first : first + self._size]]
        self._count += 1
        return TokenBatch(ids, np.ones(ids.shape, np.float32))

    def position(self) -> int:
        """How many batches were given."""
        return self._count

    def restore(self, position: int) -> None:
        """Goes to a position."""
        self._count = int(position)
