"""The compiled calls: many steps, one evaluation. Cached, so a second `fit` compiles nothing."""

import functools
from collections.abc import Callable, Hashable
from typing import Any

import jax
from jax.sharding import Mesh

from ico.optim import eval_params
from ico.train._data import Sampler
from ico.train._state import TrainState
from ico.train._step import Step
from ico.train.mesh import replicated, shard_batch

PyTree = Any
Evaluate = Callable[..., dict[str, jax.Array]]


class Frozen:
    """A tree of hashable leaves (None among them) as one hashable value: axes, shardings."""

    def __init__(self, tree: PyTree):
        self.tree = tree
        leaves, treedef = jax.tree.flatten(tree, is_leaf=lambda leaf: leaf is None)
        self._key: Hashable = (tuple(leaves), treedef)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Frozen) and self._key == other._key


# Bounded, since an entry keeps alive whatever the step and the sampler close over.
@functools.lru_cache(maxsize=16)
def compiled_chunk(
    step: Step,
    sampler: Sampler | None,
    length: int,
    seeds: bool,
    given_axes: Frozen,
    shardings: Frozen,
    mesh: Mesh,
) -> Callable[[TrainState, PyTree, tuple], tuple[TrainState, dict[str, jax.Array]]]:
    """`length` steps in one call: (state, batches, given) -> (state, metrics [length, *S]).

    The state's buffers are donated. `batches` [length, B, ...] come from a Stream and are shared
    by all seeds; they are None with a sampler, which draws each seed its own. `given` is (tree,)
    or (); `given_axes` says where its leaves have the seed axis, `shardings` how the state lies.
    """

    def body(state: TrainState, batch: PyTree, given: tuple):
        if sampler is not None:
            batch = sampler(jax.random.fold_in(state.key, state.step), *given)
        return step(state, shard_batch(batch, mesh), *given)

    many = jax.vmap(body, in_axes=(0, None, given_axes.tree)) if seeds else body

    def chunk(state: TrainState, batches: PyTree, given: tuple):
        return jax.lax.scan(lambda s, batch: many(s, batch, given), state, batches, length=length)

    # Left to itself the compiler may split the parameters, and the next call would recompile.
    return jax.jit(chunk, donate_argnums=0, out_shardings=shardings.tree)


@functools.lru_cache(maxsize=16)
def compiled_evaluation(
    evaluate: Evaluate, seeds: bool, given_axes: Frozen, mesh: Mesh
) -> Callable[[TrainState, tuple], dict[str, jax.Array]]:
    """(state, given) -> dict of metrics [*S], at the parameters that are to be used."""

    def one(state: TrainState, given: tuple) -> dict[str, jax.Array]:
        return evaluate(eval_params(state.opt_state, state.params), *given)

    every = jax.vmap(one, in_axes=(0, given_axes.tree)) if seeds else one
    return jax.jit(every, out_shardings=replicated(mesh))
