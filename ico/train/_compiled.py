"""The compiled calls: many steps, one evaluation. Cached, so a second `fit` compiles nothing."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh

from ico.train._data import Sampler
from ico.train._state import TrainState
from ico.train._step import Step
from ico.train.mesh import replicated, shard_batch

PyTree = Any


# Bounded, since an entry keeps alive whatever the step and the sampler close over.
@functools.lru_cache(maxsize=16)
def compiled_chunk(
    step: Step, sampler: Sampler | None, length: int, seeds: bool, mesh: Mesh
) -> Callable[[TrainState, PyTree], tuple[TrainState, dict[str, jax.Array]]]:
    """`length` steps in one call: (state, batches) -> (state, metrics [length, *S]).

    The state's buffers are donated. `batches` [length, B, ...] come from a Stream and are shared
    by all seeds; they are None with a sampler, which draws each seed its own.
    """

    def body(state: TrainState, batch: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        if sampler is not None:
            batch = sampler(jax.random.fold_in(state.key, state.step))
        return step(state, shard_batch(batch, mesh))

    many = jax.vmap(body, in_axes=(0, None)) if seeds else body

    def chunk(state: TrainState, batches: PyTree) -> tuple[TrainState, dict[str, jax.Array]]:
        return jax.lax.scan(many, state, batches, length=length)

    # Left to itself the compiler may split the parameters, and the next call would recompile.
    return jax.jit(chunk, donate_argnums=0, out_shardings=replicated(mesh))


@functools.lru_cache(maxsize=16)
def compiled_evaluation(
    evaluate: Callable[[PyTree], dict[str, jax.Array]], seeds: bool
) -> Callable[[PyTree], dict[str, jax.Array]]:
    """Parameters -> dict of metrics [*S]."""
    return jax.jit(jax.vmap(evaluate) if seeds else evaluate)
