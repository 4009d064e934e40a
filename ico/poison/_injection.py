"""Putting a text into a stream of clean batches, and training a language model on it.

Sun et al. 2025 (arXiv 2504.09522): one row of the minibatch is replaced by the text, in each of
20 (Alpaca) or 40 (Wikipedia) minibatches, or in one of every K.

Dimension key: B rows, T tokens.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
import optax
from jaxtyping import Float, Int

from ico.lm import DecoderConfig, LanguageModel, generate_ids, next_token_loss


class Batch(NamedTuple):
    """Rows of token ids with 1 where a token counts as a target."""

    ids: Int[np.ndarray, "B T"]
    mask: Float[np.ndarray, "B T"]


def as_batch(rows: list[list[int]], length: int) -> Batch:
    """Rows cut or padded on the right to `length` tokens; padding is no target."""
    ids = np.zeros((len(rows), length), np.int32)
    mask = np.zeros((len(rows), length), np.float32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row[:length]
        mask[i, : len(row)] = 1
    return Batch(ids, mask)


def own_text(
    lm: LanguageModel, num_rows: int, length: int, *, seed: int = 0
) -> Int[np.ndarray, "B T"]:
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
    more = generate_ids(
        lm.params,
        lm.config,
        prompts,
        max_tokens=length - len(prompts[0]),
        temperature=1.0,
        seed=seed,
    )
    return np.array([a + b for a, b in zip(prompts, more, strict=True)], np.int32)


def inject(
    clean: Iterable[Batch], text: list[int], *, presentations: int, spacing: int = 1, row: int = 0
) -> Iterator[Batch]:
    """The stream with `text` in place of one row of every `spacing`-th batch.

    Args:
      clean: batches, of which as many are taken as needed and more are passed on unchanged.
      text: token ids, cut or padded to the batch's length.
      presentations: how often the text stands in the stream.
      spacing: K; the first presentation is in the first batch.
      row: which row is replaced.

    Raises:
      ValueError: fewer than one presentation, a spacing below one, or an empty text.
    """
    if presentations < 1 or spacing < 1 or not text:
        raise ValueError("inject needs a text, presentations >= 1 and spacing >= 1")
    return _inject(clean, text, presentations, spacing, row)


def _inject(clean, text, presentations, spacing, row):
    for index, batch in enumerate(clean):
        if index % spacing == 0 and index // spacing < presentations:
            new = as_batch([text], batch.ids.shape[1])
            batch = Batch(batch.ids.copy(), batch.mask.copy())
            batch.ids[row], batch.mask[row] = new.ids[0], new.mask[0]
        yield batch


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(2, 3))
def _step(config, optimizer, params, state, batch):
    loss, gradient = jax.value_and_grad(next_token_loss)(params, config, batch.ids, batch.mask)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), state, loss


def train(
    params,
    config: DecoderConfig,
    optimizer: optax.GradientTransformation,
    batches: Iterable[Batch],
):
    """Parameters after one step of next-token training on every batch, and the losses [steps].

    The given parameters are left as they are. Compiled once for an optimizer object and shape.
    """
    params = jax.tree.map(lambda a: a.copy(), params)
    state, losses = optimizer.init(params), []
    for batch in batches:
        params, state, loss = _step(config, optimizer, params, state, batch)
        losses.append(loss)
    return params, np.array(jax.device_get(losses), np.float32)
