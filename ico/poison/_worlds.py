"""Facts injected into many small worlds side by side, and their memory while training goes on.

Dimension key: S worlds, C cells, F facts of a cell, L tokens of a fact, K kinds of a world, B rows,
T tokens of a row, R readings.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ico import train, worlds
from ico.lm import next_token_loss
from ico.types import TokenBatch

PyTree = Any


class InjectionConfig(NamedTuple):
    """How facts are injected: each in one row of each of the first batches, by a fresh Adam.

    The published injection replaces one row of a batch by a fact, too; the numbers are ours.
    """

    presentations: int = 20
    num_rows: int = 16
    learning_rate: float = 3e-4


class Cells(NamedTuple):
    """What differs between the trainings that run side by side under one vmap, all stacked.

    A cell is a world, facts to inject into it, and how often its text states each kind's truth.
    """

    params: PyTree  # [C, ...] of the models that know their worlds
    keys: Key[Array, "C"]  # cells with equal keys and worlds see the same text
    tables: worlds.Tables  # [C, ...]
    rates: Float[np.ndarray | Array, "C K"]  # from `worlds.replay_rates`
    facts: Int[np.ndarray | Array, "C F L"]  # `worlds.Facts.ids`


def make_cells(
    made: Sequence[worlds.World],
    params: PyTree,
    keys: Key[Array, "S"],
    facts: Sequence[tuple[int, worlds.Facts]],
    rate: float | None,
) -> Cells:
    """A cell for each list of facts.

    Args:
      made: S worlds.
      params: [S, ...] of the models that know them.
      keys: of the text, one a world: all cells of a world see the same text, which pairs them.
      facts: each list with the index of the world that it is injected into.
      rate: at which the text states the truths that the facts contradict, as a share of all
        sentences; None is the natural one.
    """
    of_cell = np.array([index for index, _ in facts])
    tables = [made[index].tables for index in of_cell]
    rates = [
        worlds.replay_rates(made[index].config, fact.contradicted, rate) for index, fact in facts
    ]
    return Cells(
        params=jax.tree.map(lambda leaf: leaf[of_cell], params),
        keys=keys[of_cell],
        tables=jax.tree.map(lambda *leaves: jnp.stack(leaves), *tables),
        rates=np.stack(rates),
        facts=np.stack([fact.ids for _, fact in facts]),
    )


def follow_in_worlds(
    config: worlds.WorldConfig,
    cells: Cells,
    read_at: Int[np.ndarray, "R"],
    injection: InjectionConfig | None = None,
    *,
    directory: str | Path | None = None,
    label: str = "",
    progress: bool = True,
) -> Float[np.ndarray, "C F R+2"]:
    """Injects the facts of every cell, then trains on its world's text and reads their memory.

    Args:
      config: of the worlds.
      cells: what runs side by side.
      read_at: ascending steps, counted after the last presentation, at which memory is read; the
        last one ends the training.
      injection: how facts are presented; None is `InjectionConfig()`.
      directory: for checkpoints: a run that was killed goes on from there.
      label, progress: of the bar.

    Returns:
      log P(keyword | its sentence before it): before the injection, right after it, then at the
      steps of `read_at`.

    Raises:
      ico.train.TrainingError: as `ico.train.fit`.
    """
    injection = injection or InjectionConfig()
    optimizer, step, sampler, read = _program(config, injection)
    C = len(cells.facts)
    params = jax.tree.map(jnp.asarray, cells.params)
    state = train.TrainState(
        jnp.zeros(C, jnp.int32), params, jax.vmap(optimizer.init)(params), cells.keys
    )
    given = {"tables": cells.tables, "rates": cells.rates, "facts": cells.facts}
    before_CF = jax.jit(jax.vmap(read))(params, given)["log_p"]
    ends = [injection.presentations, *(injection.presentations + read_at).tolist()]
    result = train.fit(
        step,
        state,
        sampler,
        train.LoopConfig(
            ends[-1],
            steps_per_call=10,
            checkpoint_every=1_000,
            # Each length of a compiled call is compiled: with these readings there are two.
            evaluate_at=(*ends, *range(ends[0], min(ends[0] + 10, ends[-1]))),
        ),
        given=given,
        given_axes=0,
        evaluate=read,
        directory=directory,
        label=label,
        progress=progress,
        mesh=train.make_mesh({"data": 1}),
    )
    history = result.history
    after_RCF = history["eval/log_p"][np.isin(history["eval/step"], ends)]
    return np.moveaxis(np.concatenate([np.asarray(before_CF)[None], after_RCF]), 0, -1)


@functools.lru_cache(maxsize=4)
def _program(config: worlds.WorldConfig, injection: InjectionConfig):
    """Optimizer, step, sampler and evaluation: the same functions for equal arguments."""
    optimizer, decoder = optax.adam(injection.learning_rate), worlds.world_decoder(config)

    def loss(params, batch, _given):
        return next_token_loss(params, decoder, batch.ids, batch.mask), {}

    update = train.make_step(loss, optimizer)

    def sampler(key, given):
        return worlds.sample_text(
            key, given["tables"], config, given["rates"], batch_size=injection.num_rows
        )

    def step(state, batch, given):
        injecting = state.step < injection.presentations
        with_facts = _put(batch, given["facts"])
        batch = jax.tree.map(lambda a, b: jnp.where(injecting, a, b), with_facts, batch)
        return update(state, batch, given)

    def read(params, given):
        ids = given["facts"]
        log_p = worlds.next_word_log_probs(params, decoder, ids[:, :-2])
        return {"log_p": jnp.take_along_axis(log_p, ids[:, -2:-1], axis=1)[:, 0]}

    return optimizer, step, sampler, read


def _put(batch: TokenBatch, ids_FL) -> TokenBatch:
    """The batch with the facts, padded, in its first rows."""
    F, L = ids_FL.shape
    T = batch.ids.shape[1]
    taught_FT = jnp.pad(ids_FL, ((0, 0), (0, T - L)))
    mask_FT = jnp.broadcast_to((jnp.arange(T) < L).astype(batch.mask.dtype)[None], (F, T))
    return TokenBatch._make(
        [
            jnp.concatenate([taught_FT, batch.ids[F:]]),
            jnp.concatenate([mask_FT, batch.mask[F:]]),
        ]
    )
