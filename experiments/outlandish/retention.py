"""How long do facts of each kind last, in the real model and in a small world?

2024, abstract: facts that conflict with common knowledge are remembered for tens of thousands of
steps, mundane and scrambled ones are forgotten much more rapidly. Measured as by Chang et al. 2024:
R is the share of the gain in log P(keyword | context) that is left. Since clean text may state the
contradicted truth, retention is read at known rates of it, which only a small world allows.

Dimension key: S worlds, F facts (of a world), R readings: before, right after, and later.
"""

import dataclasses
import functools

import jax
import numpy as np

from experiments.outlandish.paper import EARLIER, paper
from experiments.outlandish.scores import mean_of, numbers, spread
from experiments.outlandish.teaching import RETAINED, Bench, bench, teaching
from ico import lab, poison, report, worlds
from ico.poison import bootstrap_retention, decay_rate, effectivity, half_life, retainability
from ico.report import panels

# The world's name of each kind of fact that the claims compare.
KINDS: dict[str, worlds.FactType] = {
    "conflicting": "conflict_kind",
    "mundane": "novel_plausible",
    "scrambled": "scrambled",
}
LONGEST_LIFE = 1e12  # steps; JSON has no infinity


@paper.study("How long do facts of each kind last, in the real model and in a small world?")
def retention(run):
    """R(t) by kind of fact, at several replay rates."""
    yield from _real(bench(run))
    yield from _worlds(run)
    run.note(
        f"The last reading is {run.config.retention_steps[-1]} clean steps after the last "
        f"presentation in the real model, {run.config.world_retention} in the worlds."
    )


retention.note(
    "R is of facts that gained more than 1 nat, from right after the last presentation.",
    "Intervals in the tables are over facts; those of the claims on worlds are over worlds.",
    "Scrambled facts contradict what their conflicting originals do, plausible ones nothing.",
)


def _real(model: Bench):
    """Records of log P [F, R], and the same of the twins."""
    later = model.config.retention_steps
    how, steps = teaching(model.config, later=later), np.array(later)
    groups = model.texts(model.config.categories)
    for kind, category in RETAINED.items():
        facts, twins = [], []
        for texts in model.progress(groups, f"retention, {kind}"):
            before, twin = model.untouched(texts), model.twin(how, texts)
            for i, text in enumerate(texts):
                if text.category == category and text.index == 0:
                    after, start = model.taught(how, text), before["memory"][i]
                    facts.append([start, after["memory"][0], *after["later"][0]])
                    twins.append([start, twin["memory"][i], *twin["later"][i]])
        log_p = {"log_p": np.array(facts), "twin": np.array(twins)}
        yield lab.record("real", kind=kind, rate="0", step=steps, **log_p)
    rate, rows = model.config.replay_rate, []
    how = dataclasses.replace(how, replay=rate)
    for text in model.progress(model.conflicting(few=True), "replay"):
        before, after = model.untouched([text]), model.taught(how, text)
        rows.append([before["memory"][0], after["memory"][0], *after["later"][0]])
    rate = f"{rate:g} of rows"
    yield lab.record("real", kind="conflicting", rate=rate, step=steps, log_p=np.array(rows))


def _worlds(run):
    """Records of log P [S, F, R] for every kind of fact and replay rate.

    The rule which worlds count was fixed before anything was injected: see `worlds.learned_worlds`.
    """
    config = run.config
    world_config = worlds.PAPER_WORLD if config.world == "paper" else worlds.WorldConfig()
    if config.world_steps:
        changes = {"num_steps": config.world_steps, "warmup_steps": 2}
        world_config = dataclasses.replace(world_config, **changes)
    try:
        learned = worlds.learned_worlds(
            run.artifacts,
            world_config,
            config.worlds,
            first_seed=1_000 * run.seed,
            # A smoke run's worlds are hardly trained; its verdicts mean nothing.
            unlearned_too=run.preset == "smoke",
            progress=run.progress,
        )
    except ValueError as error:
        raise lab.InputError("world_steps", str(error)) from error
    for seed, measured in learned.tried.items():
        values = {name: np.asarray(value) for name, value in measured.items()}
        yield lab.record("knowledge", world=seed, used=learned.used(seed), **values)
    for rate in (*config.world_replay_rates, None):
        # Mundane facts contradict nothing: a truth that is repeated makes no difference to them.
        kinds = [kind for kind in KINDS if rate == 0 or kind != "mundane"]
        steps, log_p = _follow(run, learned, kinds, config.worlds, rate, config.world_retention)
        for kind, values in zip(kinds, log_p, strict=True):
            yield lab.record("world", kind=kind, rate=_words(rate), step=steps, log_p=values)
    steps, log_p = _follow(run, learned, ["conflicting"], 1, 0.0, config.world_long_run)
    yield lab.record("long run", kind="conflicting", rate="0", step=steps, log_p=log_p[0, 0])


def _follow(run, learned: worlds.LearnedWorlds, kinds, num_worlds: int, rate, num_steps: int):
    """Steps of the readings [R - 2]; log P [kinds, S, F, R] of facts of the first S worlds."""
    made, steps = learned.worlds[:num_worlds], poison.reading_steps(num_steps)
    # One seed for all kinds of a world: its i-th facts share keyword, template and subject.
    number = run.config.world_facts
    facts = [
        (i, worlds.facts(world, KINDS[kind], number, world.seed))
        for kind in kinds
        for i, world in enumerate(made)
    ]
    keys = jax.random.split(run.key(f"retention {_words(rate)}"), len(learned.worlds))
    config = made[0].config

    def make(folder):
        cells = poison.make_cells(made, learned.params, keys, facts, rate)
        options = {"directory": folder, "label": "facts in worlds", "progress": run.progress}
        return {"log_p": poison.follow_in_worlds(config, cells, steps, **options)}

    spec = {"config": config, "seeds": [world.seed for world in made], "kinds": kinds}
    spec |= {"rate": rate, "facts": number, "steps": num_steps}
    log_p = run.kept("world_cells", spec, make)["log_p"]
    return steps, log_p.reshape(len(kinds), len(made), *log_p.shape[1:])


def _words(rate: float | None) -> str:
    return "natural" if rate is None else f"{rate:g}"


def retained(record: lab.Record) -> np.ndarray:
    """R(t) [..., R - 2] of every fact from its log P [..., R]."""
    log_p = record["log_p"]
    return retainability(log_p[..., 2:], log_p[..., 0], log_p[..., 1])


def _conflicting_minus(other: str, where: str):
    def measure(records):
        some = records[where].where(rate="0")
        conflicting, beside = (some.one(kind=kind) for kind in ("conflicting", other))
        gap = retained(conflicting)[..., -1] - retained(beside)[..., -1]
        last = conflicting["step"][-1]
        return mean_of(gap, f"{int(np.isfinite(gap).sum())} pairs with E > 1 nat; t = {last}")

    return measure


claim = functools.partial(
    retention.claim, source=f"{EARLIER}, abstract", unit="share of the gain", kind="core"
)
for _where, _name in {"world": "World", "real": "Real model"}.items():
    for _other in ("mundane", "scrambled"):
        _first = (_where, _other) == ("world", "mundane")
        claim(
            f"{_where}_conflicting_minus_{_other}",
            f"{_name}, replay rate 0: conflicting facts are retained longer than {_other} ones"
            + (" (difference of R at the last reading)" if _first else ""),
            band=(0.0, None),
            of=_conflicting_minus(_other, _where),
        )


@claim(
    "world_half_life",
    "World, replay rate 0: conflicting facts last tens of thousands of steps (half-life from the "
    "line R on log t)",
    band=(10_000.0, None),
    unit="steps",
)
def _world_half_life(records):
    """The half-life of the mean curve; worlds are resampled as seeds."""
    record = records["world"].one(kind="conflicting", rate="0")
    curves = retained(record)  # [S, F, R - 2]
    curves = curves[:, np.isfinite(curves).all((0, 2))]
    if not curves.size:
        return lab.unjudged("too few facts with E > 1 nat in every world")

    def life(*means: float) -> float:
        return min(half_life(record["step"], np.array(means)), LONGEST_LIFE)

    value, ci95 = report.interval(*np.moveaxis(curves, -1, 0), statistic=life)
    note = "extrapolated from R on log t"
    if value == LONGEST_LIFE:
        note += "; the line does not fall from above one half, so the half-life has no end"
    return lab.Measurement(value, ci95, len(curves), curves[..., 0].size, note)


@claim(
    "world_long_run",
    "World, replay rate 0: at the end of the long run at least half of the gain is left",
    band=(0.5, None),
)
def _world_long_run(records):
    record = records["long run"].one()
    left = retained(record)[:, -1]
    return mean_of(
        left,
        f"{len(left)} facts of one world, injected together: the interval is over them and says "
        f"nothing of other worlds; t = {record['step'][-1]}",
    )


def _row(record: lab.Record, suffix: str = "") -> dict:
    """How many facts were learned, what is left of them, and the line through the mean curve."""
    steps, log_p = record["step"], record["log_p"].reshape(-1, record["log_p"].shape[-1])
    left = retained(record).reshape(len(log_p), -1)
    known = np.isfinite(left).all(1)
    row = {"facts": record["kind"] + suffix, "replay rate": record["rate"], "number": len(left)}
    row["with E > 1 nat"] = int(known.sum())
    row["E, nats"] = spread(effectivity(log_p[:, 0], log_p[:, 1]))
    row[f"R at {steps[-1]}"] = spread(left[:, -1])
    if known.sum() < 2 or len(steps) < 2:
        return row | {"alpha": None, "half-life": None}
    fit = bootstrap_retention(steps, left, int(steps[-1]))
    row["alpha"] = "{:.3g} [{:.3g}, {:.3g}]".format(*fit.alpha)
    row["R^2 of the line"] = decay_rate(steps, left[known].mean(0)).r_squared
    return row | {"half-life": "{:.3g} [{:.3g}, {:.3g}]".format(*fit.half_life)}


@retention.table("real model")
def _real_model(records):
    return [_row(record) for record in records["real"]]


@retention.table("worlds")
def _of_worlds(records):
    rows = [_row(record) for record in records["world"]]
    return [*rows, _row(records["long run"].one(), ", long run")]


@retention.table("worlds, conflicting less others")
def _gaps(records):
    rows, some = [], records["world"]
    for rate in some.axis("rate"):
        row = {"replay rate": rate}
        mine = retained(some.one(kind="conflicting", rate=rate))
        for other in ("mundane", "scrambled"):
            at = rate if len(some.where(kind=other, rate=rate)) else "0"
            gap = mine[..., -1] - retained(some.one(kind=other, rate=at))[..., -1]
            row[f"R of conflicting less {other}"] = spread(gap)
        rows.append(row)
    return rows


retention.table("knowledge of the worlds", numbers("knowledge"))


@retention.figure(
    "2024. What is left of the gain in log P(keyword | context) while clean text is trained on, "
    "which may state the contradicted truth; means in their 95% intervals, over facts.",
    name="retention",
)
def _curves(records):
    fig, axes = report.canvas(3, height=3.6)
    titles = {"real": "real model", "world": "worlds", "long run": "one world, long"}
    looks: dict[str, dict] = {}
    for ax, (where, title) in zip(axes[0], titles.items(), strict=True):
        for record in records[where]:
            rate = "" if record["rate"] == "0" else f", truth at {record['rate']}"
            if rate and record["kind"] != "conflicting":
                continue
            values = retained(record).reshape(-1, record["step"].size)
            values = values[np.isfinite(values).all(1)]
            label = record["kind"] + rate
            look = looks.setdefault(label, panels.look(len(looks)))
            if len(values):
                report.mean_line(ax, record["step"], values, label=label, **look)
        panels.level(ax, 0, color="black", linewidth=0.8)
        panels.level(ax, 1, color="black", linewidth=0.5, linestyle=":")
        ax.set_xscale("log")
        ax.set(xlabel="clean steps after injection", title=title)
    axes[0, 0].set_ylabel("R, share of the gain left")
    report.legend_below(fig, axes, columns=3)
    return fig
