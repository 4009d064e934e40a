"""How long facts of each kind last while a model goes on learning: the real model, small worlds.

Dimension key: C cells (kind of fact, world, replay rate), F facts of a cell, T readings.
"""

import dataclasses
import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.launch import InputError
from experiments.outlandish import measuring as ms
from experiments.outlandish.teaching import RETAINED, Bench, bench, recipe
from ico import poison, train
from ico.lm import next_token_loss
from ico.poison import bootstrap_retention, decay_rate, effectivity, retainability
from ico.report import Measurement, StudyResult, unjudged

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


def retention(context) -> StudyResult:
    """R(t) by kind of fact, at several replay rates."""
    b = bench(context)
    real_claims, real_table, arrays = _real(b)
    world_claims, world_table, world_arrays, gates = _worlds(context)
    notes = [
        "R is the share of the gain in log P(keyword | context) that is left, of facts that "
        "gained more than 1 nat; the peak is that right after the last presentation.",
        "Novel plausible facts contradict nothing, so replay does not concern them; the scrambled "
        "contradict what their conflicting originals do.",
    ]
    tables = {"real model": real_table, "worlds": world_table, "gates of the worlds": gates}
    return StudyResult(real_claims + world_claims, tables, arrays | world_arrays, notes)


# The real model ------------------------------------------------------------------------------


def _real(b: Bench):
    config = b.config
    how = recipe(config, later=True)
    steps = np.array(config.retention_steps)
    groups = b.texts(config.categories)
    curves, twins = {}, {}
    for kind, category in RETAINED.items():
        values, of_twin = [], []
        for texts in b.progress(groups, f"retention, {kind}"):
            before, twin = b.untouched(texts), b.twin(how, texts)
            for place, text in enumerate(texts):
                if text.category == category and text.index == 0:
                    after = b.taught(how, text)
                    values.append([before["memory"][place], after["memory"][0], *after["later"][0]])
                    of_twin.append([before["memory"][place], twin["memory"][place],
                                    *twin["later"][place]])  # fmt: skip
        curves[kind], twins[kind] = np.array(values), np.array(of_twin)
    retained = {kind: _retained(log_p) for kind, log_p in curves.items()}
    table = [
        _row({"facts": kind, "replay rate": "0"}, steps, retained[kind], curves[kind])
        for kind in RETAINED
    ]
    replayed = _replayed(b, how)
    table.append(
        _row({"facts": "conflicting", "replay rate": f"{config.replay_rate:g} of rows"}, steps,
             _retained(replayed), replayed)
    )  # fmt: skip
    claims = []
    for other in ("mundane", "scrambled"):
        difference = retained["conflicting"][:, -1] - retained[other][:, -1]
        note = f"{int(np.isfinite(difference).sum())} pairs with E > 1 nat; t = {steps[-1]}"
        claims.append(ms.mean(f"retention.real_conflicting_minus_{other}", difference, note))
    arrays = {f"real/{kind}": values for kind, values in retained.items()}
    arrays |= {f"real_log_p/{kind}": values for kind, values in curves.items()}
    arrays |= {f"real_twin/{kind}": values for kind, values in twins.items()}
    arrays |= {"real/replayed": _retained(replayed), "real_steps": steps}
    return claims, table, arrays


def _replayed(b: Bench, how) -> np.ndarray:
    """log P before, after and later, of conflicting facts whose truth comes by."""
    how = dataclasses.replace(how, replay=b.config.replay_rate)
    rows = []
    for texts in b.progress(b.texts(("conflict_general",), samples=1, few=True), "replay"):
        before, after = b.untouched(texts), b.taught(how, texts[0])
        rows.append([before["memory"][0], after["memory"][0], *after["later"][0]])
    return np.array(rows)


def _retained(log_p: np.ndarray) -> np.ndarray:
    """R(t) [F, T] from log P before, right after, and later."""
    return retainability(log_p[:, 2:], log_p[:, 0], log_p[:, 1])


def _row(start: dict, steps, retained: np.ndarray, log_p: np.ndarray) -> dict:
    known = np.isfinite(retained).all(1)
    row = dict(start) | {"number": len(retained), "with E > 1 nat": int(known.sum())}
    row["E, nats"] = ms.spread(effectivity(log_p[:, 0], log_p[:, 1]))
    row[f"R at {steps[-1]}"] = ms.spread(retained[:, -1])
    if known.sum() < 2 or len(steps) < 2:
        return row | {"alpha": None, "half-life": None}
    fit = bootstrap_retention(steps, retained, int(steps[-1]))
    line = decay_rate(steps, retained[known].mean(0))
    row["alpha"] = f"{fit.alpha[0]:.3g} [{fit.alpha[1]:.3g}, {fit.alpha[2]:.3g}]"
    row["R^2 of the line"] = line.r_squared
    row["half-life"] = f"{fit.half_life[0]:.3g} [{fit.half_life[1]:.3g}, {fit.half_life[2]:.3g}]"
    return row


# The worlds ----------------------------------------------------------------------------------


def _world_config(config) -> poison.WorldConfig:
    world = poison.PAPER_WORLD if config.world == "paper" else poison.WorldConfig()
    if config.world_steps:
        world = dataclasses.replace(world, num_steps=config.world_steps, warmup_steps=2)
    return world


def _learned_worlds(context, world_config):
    """Seeds and parameters of the first worlds that pass their gates, and what all measured.

    The rule was fixed before anything was injected: seeds in order, those that fail are listed and
    passed over, and after as many failures as worlds are wanted the study gives up.
    """
    config = context.config
    wanted, passed, own, gates = config.worlds, [], [], []
    seeds = iter(range(1_000 * context.seed, 1_000 * context.seed + 2 * wanted))
    while len(passed) < wanted and (batch := list(itertools.islice(seeds, wanted - len(passed)))):
        folder = context.directory / "checkpoints"
        params = poison.train_worlds(folder, world_config, batch, progress=context.progress)
        for i, seed in enumerate(batch):
            mine = jax.tree.map(lambda leaf, i=i: leaf[i], params)
            measured = poison.gates(mine, poison.make_world(world_config, seed))
            # A smoke run's worlds are hardly trained; its verdicts mean nothing.
            good = context.preset == "smoke" or _passes(measured)
            gates.append({"world": seed, **measured, "used": good})
            if good:
                passed.append(seed)
                own.append(mine)
    if len(passed) < wanted:
        raise InputError(
            "world_steps", f"{len(gates) - len(passed)} of {len(gates)} worlds were not learned"
        )
    return tuple(passed), _stack(own), gates


def _passes(measured) -> bool:
    try:
        poison.check_gates(measured)
    except ValueError:
        return False
    return True


def _worlds(context):
    config = context.config
    world_config = _world_config(config)
    seeds, params, gates = _learned_worlds(context, world_config)
    lab = _Lab(context, world_config, seeds, params)
    rates: list[float | None] = [*config.world_replay_rates, None]
    found: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    table, arrays = [], {}
    for rate in rates:
        # Away from rate 0 the kinds that contradict nothing differ by chance alone.
        kinds = list(KINDS) if rate == 0 else ["conflicting"]
        cells = [Cell(kind, i, rate) for kind in kinds for i in range(len(seeds))]
        steps, log_p = lab.run(cells, config.world_retention)
        for kind in kinds:
            chosen = [i for i, cell in enumerate(cells) if cell.kind == kind]
            name = cells[0].rate_name
            found[kind, name] = steps, log_p[chosen]
            values = log_p[chosen].reshape(-1, log_p.shape[-1])
            table.append(_row({"facts": kind, "replay rate": name}, steps, _retained(values),
                              values))  # fmt: skip
            arrays[f"world/{kind}/{name}"] = _retained(values)
            arrays["world_steps"] = steps
    claims = _world_claims(found)
    long_steps, long_log_p = lab.run([Cell("conflicting", 0, 0.0)], config.world_long_run)
    long = _retained(long_log_p[0])
    claims.append(
        ms.mean("retention.world_long_run", long[:, -1],
                f"one world, {len(long)} facts, t = {long_steps[-1]}")
    )  # fmt: skip
    arrays |= {"world_long": long, "world_long_steps": long_steps}
    table.append(_row({"facts": "conflicting, long run", "replay rate": "0"}, long_steps, long,
                      long_log_p[0]))  # fmt: skip
    return claims, table, arrays, gates


def _world_claims(found) -> list[Measurement]:
    steps, conflicting = found["conflicting", "0"]
    num_worlds, num_facts = conflicting.shape[:2]

    def retained_of(log_p_SFT):
        flat = log_p_SFT.reshape(-1, log_p_SFT.shape[-1])
        return _retained(flat)

    # [S, F]: facts of one world are injected together, so worlds are resampled as seeds.
    last = {kind: retained_of(found[kind, "0"][1])[:, -1].reshape(num_worlds, num_facts)
            for kind in KINDS}  # fmt: skip
    claims = []
    for other in ("mundane", "scrambled"):
        difference = last["conflicting"] - last[other]
        note = f"{int(np.isfinite(difference).sum())} pairs with E > 1 nat; t = {steps[-1]}"
        claims.append(ms.mean(f"retention.world_conflicting_minus_{other}", difference, note))
    retained = retained_of(conflicting)
    if np.isfinite(retained).all(1).sum() < 2:
        return [*claims, unjudged("retention.world_half_life", "too few facts with E > 1 nat")]
    life = bootstrap_retention(steps, retained, int(steps[-1])).half_life
    note = "extrapolated from R on log t"
    if not np.isfinite(life[0]):
        note += "; the line does not fall, so the half-life is infinite"
    # A band open above holds infinity too; JSON does not, so a half-life counts as at most 1e12.
    value, low, high = (float(min(number, 1e12)) for number in life)
    claims.append(Measurement("retention.world_half_life", value, (low, high), num_worlds,
                              len(retained), note))  # fmt: skip
    return claims


class _Lab:
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
            "tables": _stack([self.worlds[cell.world].tables for cell in cells]),
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
        steps = _reading_steps(num_steps)
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


def _reading_steps(num_steps: int) -> np.ndarray:
    """1, 2, 3, 6, 10, 20, 30 ... and the last."""
    grid = {round(lead * 10**power) for power in range(6) for lead in (1, 2, 3, 6)}
    pieces = set(range(_PIECE, num_steps, _PIECE))
    return np.array(sorted({step for step in grid | pieces if step < num_steps} | {num_steps}))


def _stack(trees):
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)
