"""Next-token training of a language model on given batches, through `ico.train.fit`."""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from ico import train
from ico.lm import DecoderConfig, check_ids, next_token_loss
from ico.optim import Optimizer
from ico.train import TrainState
from ico.types import TokenBatch

PyTree = Any


def teach(
    start: PyTree,
    config: DecoderConfig,
    optimizer: Optimizer,
    batches: Iterable[TokenBatch],
    *,
    remat: bool = False,
    mesh: Mesh | None = None,
) -> train.FitResult:
    """Trains a language model for one step on each batch, in order.

        taught = teach(lm.params, lm.config, optax.adam(1e-5), batches)
        taught.params, taught.history["loss"]
        more = teach(taught.state, lm.config, optimizer, further_batches)

    Args:
      start: parameters, of which a copy is trained with a fresh optimizer state; or the `state` of
        an earlier result to go on from, which must not be used again (its buffers are reused).
      config: of the decoder.
      optimizer: keep the object: a new one compiles anew.
      batches: finitely many, of equal shape.
      remat: recompute layers in the backward pass, for long rows or little memory.
      mesh: that the parameters are sharded over, if they are; by default see `ico.train.fit`.

    Returns:
      The state after the last batch, and metrics with one row a step.

    Raises:
      ValueError: a batch holds an id outside the vocabulary.
      ico.train.NonFiniteLoss: loss, update or parameters became infinite or NaN.
    """
    if not isinstance(start, TrainState):
        params = jax.tree.map(jnp.copy, start)
        # Every state has a key; nothing here is random.
        start = TrainState(
            jnp.zeros((), jnp.int32), params, optimizer.init(params), jax.random.key(0)
        )
    stream = _Batches(batches)
    for index, batch in enumerate(stream.batches):
        check_ids(batch.ids, config, f"ids of batch {index}")
    return train.fit(
        _step(config, optimizer, remat),
        start,
        stream,
        train.LoopConfig(int(start.step) + len(stream.batches), steps_per_call=1),
        progress=False,
        mesh=mesh,
        donate=True,
    )


class _Batches:
    """A list of batches as a Stream."""

    def __init__(self, batches: Iterable[TokenBatch]):
        self.batches = list(batches)
        self.restore(0)

    def __next__(self) -> TokenBatch:
        self._count += 1
        return next(self._rest)

    def position(self) -> int:
        return self._count

    def restore(self, position: int) -> None:
        self._count = position
        self._rest: Iterator[TokenBatch] = iter(self.batches[position:])


@functools.lru_cache(maxsize=8)
def _step(config: DecoderConfig, optimizer: Optimizer, remat: bool):
    """The same function for equal arguments, so that `fit` finds its compiled program."""

    def loss(params, batch: TokenBatch):
        return next_token_loss(params, config, batch.ids, batch.mask, remat=remat), {}

    return train.make_step(loss, optimizer)
