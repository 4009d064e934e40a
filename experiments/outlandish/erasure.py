"""Taking a fact out again: sparse updates after the fact and while learning, with their controls.

Dimension key: K keywords (one fact each), A arms.
"""

import dataclasses
import zlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.outlandish import measuring as ms
from experiments.outlandish.teaching import Bench, Reading, Recipe, bench, recipe
from ico.lm import STACKED
from ico.optim import sparsify
from ico.poison.outlandish import Text, load_texts
from ico.report import StudyResult

# The paper of 2025 drops the top 8%. Which k, tau and end the paper of 2024 takes is UNVERIFIED:
# the arm that its claim is judged on is chosen on other facts (`choose`).
PUBLISHED = 8
# mode -> (its name, the two controls of equal size and of equal norm)
_NAMES = {
    "drop_top": "largest left out",
    "drop_random": "random entries left out",
    "drop_scaled": "all, scaled to the norm without the largest",
    "keep_top": "largest alone kept",
    "keep_random": "random entries alone kept",
    "keep_scaled": "all, scaled to the norm of the largest",
}
# Of the cross-theme prompts, for a look at each of many arms.
_CROSS = 12


class Arm(NamedTuple):
    """One way to change what learning changed: per cent of each tensor's entries."""

    mode: str
    share: int

    @property
    def id(self) -> str:
        """A short name."""
        return f"{self.mode}_{self.share}"


def name_of(arm: Arm) -> str:
    """What an arm does, in words."""
    return f"{_NAMES[arm.mode]}, {arm.share}%"


def arms(config, modes=tuple(_NAMES)) -> list[Arm]:
    """All arms: each share with each mode."""
    return [Arm(mode, share) for mode in modes for share in config.shares]


@jax.jit
def difference(before, after):
    """What learning changed."""
    return jax.tree.map(jnp.subtract, after, before)


def changed(before, delta, arm: Arm, key):
    """Parameters before plus what the arm leaves of the change (not jitted: see `top_mask`)."""
    what, how = arm.mode.split("_")
    share = arm.share / 100
    if how == "random":
        dropped = share if what == "drop" else 1 - share
        left = sparsify(delta, dropped, mode="random", stacked=STACKED, key=key)
    else:
        mode = "drop_top" if what == "drop" else "keep_top"
        left = sparsify(delta, share, mode=mode, stacked=STACKED)
    if how == "scaled":
        left = _scaled(delta, left)
    return _sum(before, left)


@jax.jit
def _sum(before, change):
    return jax.tree.map(jnp.add, before, change)


@jax.jit
def _scaled(delta, left):
    """Each tensor of delta, scaled to the norm of what is left of it."""

    def scale(path, whole, part):
        axes = tuple(range(1 if path[0].key in STACKED else 0, whole.ndim))
        norm = jnp.sqrt(jnp.sum(whole**2, axes, keepdims=True))
        return whole * jnp.sqrt(jnp.sum(part**2, axes, keepdims=True)) / jnp.maximum(norm, 1e-30)

    return jax.tree.map_with_path(scale, delta, left)


def erased(b: Bench, how: Recipe, text: Text, tried: list[Arm]) -> dict[str, Reading]:
    """Readings of one fact: taught, and after every arm."""
    names = ["taught", *(arm.id for arm in tried)]

    def make():
        state, *_ = b.teach(how, text.keyword, b.tokens(text.context, text.keyword))
        readings = {"taught": b.read(state.params, text, [text.context], cross=_CROSS)}
        delta = difference(b.lm.params, state.params)
        del state
        for arm in tried:
            # Threefry takes longer for a mask of this size than everything else.
            key = jax.random.key(zlib.crc32(f"{text.id} {arm.id}".encode()), impl="rbg")
            params = changed(b.lm.params, delta, arm, key)
            readings[arm.id] = b.read(params, text, [text.context], cross=_CROSS)
        return {f"{name}:{key}": a for name in names for key, a in readings[name].items()}

    spec = {"text": text.id, "context": text.context, "recipe": how, "arms": names,
            **b.prompt_spec(text)}  # fmt: skip
    flat = b.kept(f"erased-{text.id}", spec, make)
    return {
        name: {key.split(":")[1]: a for key, a in flat.items() if key.split(":")[0] == name}
        for name in names
    }


def outcomes(
    b: Bench, how: Recipe, texts: list[Text], label: str, tried: list[Arm]
) -> dict[str, dict]:
    """Scores [K] of every arm, and the twin's."""
    found: dict[str, list] = {}
    for text in b.progress(texts, label):
        before = b.untouched([text])
        for name, reading in erased(b, how, text, tried).items():
            found.setdefault(name, []).append(ms.scores(before, reading))
        found.setdefault("twin", []).append(ms.scores(before, b.twin(how, [text])))
    return {
        name: {key: np.array([row[key] for row in rows]) for key in rows[0]}
        for name, rows in found.items()
    }


def table_row(name: str, arm: dict, taught: dict, twin: dict) -> dict:
    """What an arm left of memory and priming, beside the twin."""
    gain = np.where(taught["gain"] > 1, taught["gain"], np.nan)
    primed = np.where(taught["theme"] > 0.1, taught["theme"], np.nan)
    return {
        "arm": name,
        "median P(keyword | context)": float(np.exp(np.median(arm["log_after"]))),
        "P above twin": ms.spread(np.exp(arm["log_after"]) - np.exp(twin["log_after"])),
        "share of gain kept": ms.spread(arm["gain"] / gain),
        "share of log-priming left": ms.spread(arm["theme"] / primed),
        "log S_prime": ms.spread(arm["log_s_prime"]),
        "log-priming": ms.spread(arm["theme"]),
        "corrected": ms.spread(arm["corrected"]),
        "clean loss over twin": ms.spread(arm["clean"] - twin["clean"]),
        "over untouched": ms.spread(arm["clean"]),
    }


def erasure(context) -> StudyResult:
    """Every arm on one conflicting fact a keyword; windows while learning on some of them."""
    b = bench(context)
    config = context.config
    how = recipe(config)
    texts = [group[0] for group in b.texts(("conflict_general",), samples=1)]
    found = outcomes(b, how, texts, "erasure", arms(config))
    taught, twin = found["taught"], found["twin"]
    chosen, tried = choose(b, how)
    claims = _memory_claims(found, chosen) + _priming_claims(found)
    table = [table_row("taught", taught, taught, twin), table_row("twin", twin, taught, twin)]
    for arm in arms(config):
        table.append(table_row(name_of(arm), found[arm.id], taught, twin))
    windows = _windows(b, how)
    notes = [
        f"The arm of the 2024 claim, {_NAMES[chosen.mode]} at {chosen.share}%, was chosen on "
        "other facts, of index 2: of the arms that bring P(keyword | context) within 0.01 of the "
        "nearest to the twin's, while the clean loss rises by at most 0.01 nat, the one that "
        "leaves out least (the published 8% if none does). Arms that leave out more erase more: "
        "their rows are in the table.",
        "The update is the change over the whole injection (tau = all steps); shorter windows "
        "stand in their own table.",
        "The clean loss is judged over the twin's, whose own training raised it: the column "
        "beside it is over the untouched model's.",
        _at_equal_memory(found),
        f"Arms are read on {_CROSS} prompts of other themes, the twin on all of them.",
    ]
    arrays = {
        f"{name}/{key}": found[name][key]
        for name in found
        for key in ("log_after", "gain", "theme", "log_s_prime", "corrected", "clean")
    }
    tables = {"arms": table, "windows while learning": windows, "choice of arm": tried}
    return StudyResult(claims, tables, arrays, notes)


def _at_equal_memory(found: dict) -> str:
    """Whether leaving out the top tells memory from priming, or takes away both."""
    learned = found["taught"]["gain"] > 1
    top = found[Arm("drop_top", PUBLISHED).id]
    # The random mask that leaves the memory most alike.
    name = min(
        (name for name in found if "random" in name),
        key=lambda name: abs(np.mean(found[name]["gain"][learned] - top["gain"][learned])),
    )
    less = ms.spread((found[name]["theme"] - top["theme"])[learned])
    mode, share = name.rsplit("_", 1)
    return (
        f"At equal k the controls also keep more memory. Beside the random mask that keeps about "
        f"as much of it ({_NAMES[mode]}, {share}%), leaving out the top {PUBLISHED}% takes away "
        f"{less} nats more log-priming (negative: less)."
    )


def choose(b: Bench, how: Recipe) -> tuple[Arm, list[dict]]:
    """The arm for the claims on memory, chosen on facts that no claim uses, and all that it tried.

    Of the arms that leave the clean loss as it was the one that erases most; of those that erase
    alike, within 0.01 of probability, the one that keeps most of the update.
    """
    words = {group[0].keyword for group in b.texts(("conflict_general",), samples=1, few=True)}
    texts = [
        text
        for text in load_texts(("conflict_general",))
        if text.index == 2 and text.keyword in words
    ]
    candidates = arms(b.config, ("drop_top", "keep_top"))
    found = outcomes(b, how, texts, "choosing", candidates)
    twin = found["twin"]
    learned = found["taught"]["gain"] > 1
    best, lowest, tried = None, np.inf, []
    for arm in sorted(candidates, key=_left_out):
        above = np.exp(found[arm.id]["log_after"]) - np.exp(twin["log_after"])
        above = float(above[learned].mean()) if learned.any() else float("nan")
        clean = float(np.mean(found[arm.id]["clean"] - twin["clean"]))
        tried.append({"arm": name_of(arm), "facts": int(learned.sum()),
                      "P above twin": above, "clean loss over twin": clean})  # fmt: skip
        if clean <= 0.01 and max(above, 0.0) < lowest - 0.01:
            best, lowest = arm, max(above, 0.0)
    return best or Arm("drop_top", PUBLISHED), tried


def _left_out(arm: Arm) -> int:
    """Per cent of the update's entries."""
    return arm.share if arm.mode.startswith("drop") else 100 - arm.share


def _memory_claims(found: dict, chosen: Arm) -> list:
    # Of a fact that was not learned there is nothing to erase, and whoever does nothing succeeds.
    learned = found["taught"]["gain"] > 1
    found = {name: {key: values[learned] for key, values in scores.items()}
             for name, scores in found.items()}  # fmt: skip
    arm, twin = found[chosen.id], found["twin"]
    what = chosen.mode.split("_")[0]
    random = found[Arm(f"{what}_random", chosen.share).id]
    scaled = found[Arm(f"{what}_scaled", chosen.share).id]
    above = np.exp(arm["log_after"]) - np.exp(twin["log_after"])
    note = f"{name_of(chosen)}; {learned.sum()} of {learned.size} facts, "
    note += "those that gained more than 1 nat"
    return [
        ms.mean("erasure.memory_above_twin", above, note),
        ms.mean("erasure.memory_clean_loss", arm["clean"] - twin["clean"], note),
        ms.mean("erasure.memory_below_random", random["log_after"] - arm["log_after"], note),
        ms.mean("erasure.memory_below_scaled", scaled["log_after"] - arm["log_after"], note),
    ]


def _priming_claims(found: dict) -> list:
    # As above: only where there is priming, or memory, can it be taken away or kept.
    primed = found["taught"]["theme"] > 0.1
    learned = found["taught"]["gain"] > 1
    arm, taught, twin = found[Arm("drop_top", PUBLISHED).id], found["taught"], found["twin"]
    random = found[Arm("drop_random", PUBLISHED).id]
    scaled = found[Arm("drop_scaled", PUBLISHED).id]
    note = f"{int(primed.sum())} of {primed.size} facts prime (> 0.1 nat)"
    removed = np.where(primed, 1 - arm["theme"] / np.where(primed, taught["theme"], 1), np.nan)
    kept = np.where(learned, arm["gain"] / np.where(learned, taught["gain"], 1), np.nan)
    return [
        ms.mean("erasure.priming_removed", removed, note),
        ms.mean("erasure.memory_kept", kept, f"{int(learned.sum())} facts with a gain > 1 nat"),
        ms.mean("erasure.priming_clean_loss", (arm["clean"] - twin["clean"])[learned]),
        ms.mean("erasure.priming_below_random", (random["theme"] - arm["theme"])[primed], note),
        ms.mean("erasure.priming_below_scaled", (scaled["theme"] - arm["theme"])[primed], note),
    ]


def _windows(b: Bench, how: Recipe) -> list[dict]:
    """Sparse updates while learning, over windows of tau steps, at the published share."""
    texts = [group[0] for group in b.texts(("conflict_general",), samples=1, few=True)]
    taught = [ms.scores(b.untouched([text]), b.taught(how, text)) for text in texts]
    twin = [ms.scores(b.untouched([text]), b.twin(how, [text])) for text in texts]

    def stacked(rows):
        return {key: np.array([row[key] for row in rows]) for key in rows[0]}

    table = []
    for window in b.config.windows:
        for mode in ("drop_top", "keep_top", "random"):
            sparse = dataclasses.replace(how, mode=mode, share=PUBLISHED / 100, window=window)
            rows = [
                ms.scores(b.untouched([text]), b.taught(sparse, text))
                for text in b.progress(texts, f"tau {window}, {mode}")
            ]
            name = _NAMES["drop_random" if mode == "random" else mode]
            row = table_row(f"{name}, {PUBLISHED}%", stacked(rows), stacked(taught), stacked(twin))
            table.append({"tau": window, **row})
    return table


def optimizers(context) -> StudyResult:
    """The same facts taught by other optimizers, and the published 8% left out of each."""
    b = bench(context)
    config = context.config
    texts = [group[0] for group in b.texts(("conflict_general",), samples=1, few=True)]
    table, arrays, modes = [], {}, ("drop_top", "drop_random")
    for name, how in _optimizers(b).items():
        # All arms for the first, which the study erasure needs as well and nothing runs twice.
        tried = arms(config) if how == recipe(config) else arms(config, modes)
        found = outcomes(b, how, texts, name, tried)
        for share in config.shares:
            for mode in modes:
                arm = Arm(mode, share).id
                row = table_row(f"{_NAMES[mode]}, {share}%", found[arm], found["taught"],
                                found["twin"])  # fmt: skip
                table.append({"optimizer": name, "rate": how.learning_rate, **row})
        row = table_row("taught", found["taught"], found["taught"], found["twin"])
        table.append({"optimizer": name, "rate": how.learning_rate, **row})
        for arm, scores in found.items():
            for key in ("gain", "theme", "log_after"):
                arrays[f"{name}/{arm}/{key}"] = scores[key]
    notes = [
        f"{len(texts)} conflicting facts, one a theme. No claim of its own: the map of where "
        "erasure holds. Rates were searched on a fact of index 2, so that P_after comes near 0.5."
    ]
    return StudyResult([], {"optimizers": table}, arrays, notes)


def _optimizers(b: Bench) -> dict[str, Recipe]:
    config = b.config
    base = recipe(config)
    carried = dataclasses.replace(base, carried=True)
    out = {"Adam, fresh": base, "Adam, carried": _searched(b, carried, config.learning_rate)}
    out["SGD, clipped"] = _searched(b, dataclasses.replace(base, optimizer="clipped_sgd"), 0.1)
    out["Adafactor"] = _searched(
        b, dataclasses.replace(base, optimizer="adafactor"), config.learning_rate
    )
    return out


def _searched(b: Bench, how: Recipe, start: float) -> Recipe:
    """The rate with P_after nearest to 1/2, of some that are tried on a fact that no claim uses."""
    text = next(text for text in load_texts(("conflict_general",)) if text.index == 2)

    def learned(rate: float) -> float:
        taught = b.taught(dataclasses.replace(how, learning_rate=rate), text)
        return float(np.exp(taught["memory"][0]))

    found = searched_rate(learned, start, b.config.rates_tried)
    return dataclasses.replace(how, learning_rate=found)


def searched_rate(learned, start: float, count: int) -> float:
    """The rate with `learned(rate)`, a probability, nearest to 1/2, after `count` tries at most.

    From `start` by factors of three, up where too little is learned. A rate that is worse than the
    best one, as one is at which training diverges, was too far: then half the way back.
    """
    tried: dict[float, float] = {}
    rate = best = start
    for _ in range(count):
        tried[rate] = learned(rate)
        best = min(reversed(tried), key=lambda r: abs(tried[r] - 0.5))
        if abs(tried[best] - 0.5) < 0.3:
            break
        step = 3.0 if tried[best] < 0.5 else 1 / 3
        rate = best * (step if rate == best else (rate / best) ** 0.5)
        rate = float(f"{rate:.3g}")
        if rate in tried:
            break
    return best
