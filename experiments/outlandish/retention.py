"""How long facts of each kind last while a model goes on learning: the real model, small worlds.

Dimension key: C cells (kind of fact, world, replay rate), F facts of a cell, T readings.
"""

import dataclasses
import itertools

import jax
import numpy as np

from experiments.launch import InputError
from experiments.outlandish import measuring as ms
from experiments.outlandish.teaching import RETAINED, Bench, bench, recipe
from experiments.outlandish.world_lab import KINDS, Cell, Lab, stack
from ico import poison
from ico.poison import bootstrap_retention, decay_rate, effectivity, half_life, retainability
from ico.report import Measurement, StudyResult, resampled_means, unjudged


def retention(context) -> StudyResult:
    """R(t) by kind of fact, at several replay rates."""
    b = bench(context)
    real_claims, real_table, arrays = _real(b)
    world_claims, world_table, gaps, world_arrays, gates = _worlds(context)
    notes = [
        "R is the share of the gain in log P(keyword | context) that is left, of facts that "
        "gained more than 1 nat; the peak is that right after the last presentation.",
        f"The last reading is {context.config.retention_steps[-1]} clean steps after the last "
        f"presentation in the real model, {context.config.world_retention} in the worlds.",
        "Intervals in the tables are over facts; those of the claims on worlds are over worlds.",
        "Novel plausible facts contradict nothing, so replay does not concern them; the scrambled "
        "contradict what their conflicting originals do.",
    ]
    tables = {"real model": real_table, "worlds": world_table,
              "worlds, conflicting less others": gaps, "gates of the worlds": gates}  # fmt: skip
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
    return tuple(passed), stack(own), gates


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
    lab = Lab(context, world_config, seeds, params)
    rates: list[float | None] = [*config.world_replay_rates, None]
    found: dict[tuple[str, str], tuple[np.ndarray, np.ndarray]] = {}
    table, arrays = [], {}
    for rate in rates:
        # Mundane facts contradict nothing: a truth that comes by makes no difference to them.
        kinds = [kind for kind in KINDS if rate == 0 or kind != "mundane"]
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
    gaps = _gaps(found, [cell.rate_name for cell in (Cell("", 0, rate) for rate in rates)])
    long_steps, long_log_p = lab.run([Cell("conflicting", 0, 0.0)], config.world_long_run)
    long = _retained(long_log_p[0])
    claims.append(
        ms.mean("retention.world_long_run", long[:, -1],
                f"{len(long)} facts of one world, told together: the interval is over them and "
                f"says nothing of other worlds; t = {long_steps[-1]}")
    )  # fmt: skip
    arrays |= {"world_long": long, "world_long_steps": long_steps}
    table.append(_row({"facts": "conflicting, long run", "replay rate": "0"}, long_steps, long,
                      long_log_p[0]))  # fmt: skip
    return claims, table, gaps, arrays, gates


def _last(log_p_SFT) -> np.ndarray:
    """R at the last reading [S, F]."""
    return _retained_all(log_p_SFT)[..., -1]


def _retained_all(log_p_SFT) -> np.ndarray:
    """R(t) [S, F, T] of worlds and their facts."""
    S, F, T = log_p_SFT.shape
    return _retained(log_p_SFT.reshape(S * F, T)).reshape(S, F, T - 2)


def _gaps(found, names: list[str]) -> list[dict]:
    """How much more of conflicting facts is left than of others, at every replay rate."""
    rows = []
    for name in names:
        row: dict = {"replay rate": name}
        for other in ("mundane", "scrambled"):
            of = found.get((other, name)) or found[other, "0"]
            gap = _last(found["conflicting", name][1]) - _last(of[1])
            row[f"R of conflicting less {other}"] = ms.spread(gap)
        rows.append(row)
    return rows


def _world_claims(found) -> list[Measurement]:
    steps, conflicting = found["conflicting", "0"]
    # [S, F]: facts of one world are injected together, so worlds are resampled as seeds.
    last = {kind: _last(found[kind, "0"][1]) for kind in KINDS}
    claims = []
    for other in ("mundane", "scrambled"):
        difference = last["conflicting"] - last[other]
        note = f"{int(np.isfinite(difference).sum())} pairs with E > 1 nat; t = {steps[-1]}"
        claims.append(ms.mean(f"retention.world_conflicting_minus_{other}", difference, note))
    return [*claims, _half_life_claim(steps, _retained_all(conflicting))]


def _half_life_claim(steps, retained_SFT) -> Measurement:
    """The half-life of the mean curve, worlds resampled as seeds."""
    claim = "retention.world_half_life"
    curves = retained_SFT[:, np.isfinite(retained_SFT).all((0, 2))]
    if not curves.size:
        return unjudged(claim, "too few facts with E > 1 nat in every world")

    def life(curve_T) -> float:
        # A band open above holds infinity too; JSON does not, so at most 1e12 steps count.
        return min(half_life(steps, np.asarray(curve_T)), 1e12)

    value = life(curves.mean((0, 1)))
    draws = [life(curve) for curve in resampled_means(curves)]
    low, high = np.percentile(draws, (2.5, 97.5))
    note = "extrapolated from R on log t"
    if value == 1e12:
        note += "; the line does not fall from above one half, so the half-life has no end"
    ci95 = float(low), float(high)
    return Measurement(claim, value, ci95, len(curves), curves.shape[0] * curves.shape[1], note)
