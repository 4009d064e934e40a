"""Facts injected into many small worlds at once, and followed while their models go on learning.

Dimension key: C cells (kind of fact, world, replay rate), F facts of a cell, T readings.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ico import poison, train
from ico.lm import next_token_loss

# The world's name of each kind that the claims compare.
KINDS: dict[str, poison.FactType] = {
    "conflicting": "conflict_kind",
    "mundane": "novel_plausible",
    "scrambled": "scrambled",
}
# One row of 16 a fact, 20 presentations, fresh Adam at a constant rate: our choice, not theirs.
PRESENTATIONS, ROWS, RATE = 20, 16, 3e-4
_PIECE = 1_000  # steps between two states on disk


class Cell(NamedTuple):
    """Facts of one kind in one world, the truths that they contradict told at one rate."""

    kind: str
    world: int
    rate: float | None  # None: the natural one

    @property
    def rate_name(self) -> str:
        """For tables."""
        return "natural" if self.rate is None else f"{self.rate:g}"


class Lab:
    """Worlds and their trained models, and the compiled run of many cells at once."""

    def __init__(self, context, world_config, seeds, params):
        self.context, self.config, self.seeds = context, world_config, seeds
        self.worlds = [poison.make_world(world_config, seed) for seed in seeds]
        self.params = params
        self.decoder = poison.world_decoder(world_config)
        self.step = train.make_step(
            lambda params, batch: (
                next_token_loss(params, self.decoder, batch.ids, batch.mask), {}
            ),
            optax.adam(RATE),
        )  # fmt: skip

    def run(self, cells: list[Cell], num_steps: int) -> tuple[np.ndarray, np.ndarray]:
        """Injects the facts of every cell, then trains on its world's text.

        Returns:
          Steps after the last presentation [T], and log P [C, F, 2 + T]: before, right after, and
          at those steps.
        """
        facts = [self._facts(cell) for cell in cells]
        given = {
            "tables": stack([self.worlds[cell.world].tables for cell in cells]),
            "rates": np.stack([
                poison.replay_rates(self.config, fact.contradicted, cell.rate)
                for cell, fact in zip(cells, facts, strict=True)
            ]),
            "ids": np.stack([fact.ids for fact in facts]),
        }  # fmt: skip
        places = np.array([cell.world for cell in cells])
        params = jax.tree.map(lambda leaf: leaf[places], self.params)
        keys = jax.random.split(
            self.context.key(f"retention {cells[0].rate_name}"), len(self.seeds)
        )
        state = train.TrainState(
            jnp.zeros(len(cells), jnp.int32), params, jax.vmap(optax.adam(RATE).init)(params),
            keys[places],  # the kinds of one world see the same clean text
        )  # fmt: skip
        advance, read = self._compiled()
        readings = [np.asarray(read(state.params, given))]
        state = advance(state, given, PRESENTATIONS)
        readings.append(np.asarray(read(state.params, given)))
        steps = reading_steps(num_steps)
        spec = {"cells": [list(cell) for cell in cells], "config": self.config,
                "seeds": list(self.seeds), "facts": self.context.config.world_facts,
                "seed": self.context.seed}  # fmt: skip
        return steps, self._pieces(state, given, steps, readings, spec)

    def _pieces(self, state, given, steps, readings, spec) -> np.ndarray:
        """The readings of the whole run, in pieces that are kept: a killed run goes on there."""
        advance, read = self._compiled()
        ends = sorted({*range(_PIECE, int(steps[-1]), _PIECE), int(steps[-1])})
        log_p, done = np.stack(readings, -1), 0
        leaves, treedef = jax.tree.flatten(state._replace(key=jax.random.key_data(state.key)))
        for end in ends:
            folder = train.artifact_directory(
                self.context.directory / "checkpoints", "world_cells", {**spec, "until": end}
            )
            kept = train.load_artifact(folder)
            if kept is None:
                state = jax.tree.unflatten(treedef, leaves)
                state = state._replace(key=jax.random.wrap_key_data(state.key))
                found = []
                for step in steps[(steps > done) & (steps <= end)]:
                    state = advance(state, given, int(step) - done)
                    done = int(step)
                    found.append(np.asarray(read(state.params, given)))
                leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
                kept = {f"{i:04d}": np.asarray(leaf) for i, leaf in enumerate(leaves)}
                kept["log_p"] = np.stack(found, -1)
                train.save_artifact(folder, kept)
            leaves = [jnp.asarray(kept[f"{i:04d}"]) for i in range(len(leaves))]
            log_p, done = np.concatenate([log_p, np.asarray(kept["log_p"])], -1), end
        return log_p

    def _facts(self, cell: Cell):
        # One seed for all kinds of a world: its i-th facts share keyword, template and subject.
        return poison.facts(self.worlds[cell.world], KINDS[cell.kind],
                            self.context.config.world_facts, self.seeds[cell.world])  # fmt: skip

    @functools.cache  # noqa: B019 (a lab lives as long as its study)
    def _compiled(self):
        """advance(state, given, steps), whatever the number of steps, and read(params, given)."""

        def one(state, given):
            batch = poison.sample_text(
                jax.random.fold_in(state.key, state.step), given["tables"], self.config,
                given["rates"], batch_size=ROWS,
            )  # fmt: skip
            F, L = given["ids"].shape
            taught = jnp.pad(given["ids"], ((0, 0), (0, batch.ids.shape[1] - L)))
            mask = (jnp.arange(batch.ids.shape[1]) < L).astype(batch.mask.dtype)
            with_facts = poison.Batch(
                jnp.concatenate([taught, batch.ids[F:]]),
                jnp.concatenate([jnp.broadcast_to(mask[None], (F, mask.size)), batch.mask[F:]]),
            )
            injecting = state.step < PRESENTATIONS
            batch = jax.tree.map(lambda a, c: jnp.where(injecting, a, c), with_facts, batch)
            return self.step(state, batch)[0]

        @jax.jit
        def advance(state, given, count):
            return jax.lax.fori_loop(0, count, lambda _, s: jax.vmap(one)(s, given), state)

        @jax.jit
        def read(params, given):
            def facts(params, ids):
                log_p = poison.next_word_log_probs(params, self.decoder, ids[:, :-2])
                return jnp.take_along_axis(log_p, ids[:, -2:-1], axis=1)[:, 0]

            return jax.vmap(facts)(params, given["ids"])

        return advance, read


def reading_steps(num_steps: int) -> np.ndarray:
    """1, 2, 3, 6, 10, 20, 30 ... and the last."""
    grid = {round(lead * 10**power) for power in range(6) for lead in (1, 2, 3, 6)}
    pieces = set(range(_PIECE, num_steps, _PIECE))
    return np.array(sorted({step for step in grid | pieces if step < num_steps} | {num_steps}))


def stack(trees):
    """Trees of equal shape as one, with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
