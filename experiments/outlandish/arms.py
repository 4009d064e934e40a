"""Arms of the studies on erasure: what is left of a fact when a part of its update is taken away.

Dimension key: K keywords (one fact each).
"""

import functools
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.outlandish.paper import PUBLISHED_SHARE
from experiments.outlandish.scores import LEAST_GAIN, LEAST_PRIMING, median_probability, spread
from experiments.outlandish.teaching import Bench, teaching
from ico import lab, poison
from ico.lm import STACKED
from ico.poison import Teaching
from ico.poison.outlandish import Text, load_texts

# How each arm reads in tables; `ico.poison.erase` says what it does.
NAMES = {
    "drop_top": "largest left out",
    "drop_random": "random entries left out",
    "drop_scaled": "all, scaled to the norm without the largest",
    "keep_top": "largest alone kept",
    "keep_random": "random entries alone kept",
    "keep_scaled": "all, scaled to the norm of the largest",
}
NUM_CROSS_PROMPTS = 12  # of the prompts of other themes, since there are many arms


class Arm(NamedTuple):
    """A mode of `ico.poison.erase` and the per cent of each tensor's entries that it concerns.

    Two arms erase nothing: "taught", and "twin", which saw the same batches without the fact.
    """

    mode: str
    share: int = 0

    @property
    def id(self) -> str:
        """A short name."""
        return f"{self.mode}_{self.share}"

    @property
    def words(self) -> str:
        """What it does."""
        return f"{NAMES[self.mode]}, {self.share}%" if self.share else self.mode

    @property
    def left_out(self) -> int:
        """Per cent of the update's entries that it leaves out."""
        return self.share if self.mode.startswith("drop") else 100 - self.share


TAUGHT, TWIN = Arm("taught"), Arm("twin")


def arms(config, modes: Sequence[str] = tuple(NAMES)) -> list[Arm]:
    """All arms: each share with each mode."""
    return [Arm(mode, share) for mode in modes for share in config.shares]


@jax.jit
def difference(after, before):
    """What learning changed in the parameters."""
    return jax.tree.map(jnp.subtract, after, before)


def erased(model: Bench, how: Teaching, text: Text, tried: list[Arm]) -> dict[str, Any]:
    """Readings of one fact by the arm's id: taught, and after every arm."""
    before, contexts = model.lm.params, [text.context]

    def make():
        state, *_ = model.teach(how, text.keyword, model.tokens(text.context, text.keyword))
        found = {TAUGHT.id: model.read(state.params, text, contexts, cross=NUM_CROSS_PROMPTS)}
        change = difference(state.params, before)
        del state  # a third copy of the model
        for arm in tried:
            # Threefry takes longer for a mask of this size than everything else.
            key = jax.random.key(zlib.crc32(f"{text.id} {arm.id}".encode()), impl="rbg")
            params = erase(before, change, arm, key)
            found[arm.id] = model.read(params, text, contexts, cross=NUM_CROSS_PROMPTS)
        return found

    spec = {"text": text.id, "context": text.context, "teaching": how}
    spec |= {"arms": [arm.id for arm in tried], **model.spec(text)}
    return model.kept(f"erased-{text.id}", spec, make)


def erase(before, change, arm: Arm, key):
    """The parameters before, plus what an arm leaves of the change."""
    mode = cast(poison.EraseMode, arm.mode)
    return poison.erase(before, change, mode, arm.share / 100, stacked=STACKED, key=key)


def arm_records(
    model: Bench, how: Teaching, texts: list[Text], tried: list[Arm], label: str, **axes
) -> Iterator[lab.Record]:
    """Effects [K] of every arm, of the taught model and of its twin: a record each."""
    rows: dict[Arm, list[dict]] = {arm: [] for arm in (TAUGHT, *tried, TWIN)}
    for text in model.progress(texts, label):
        before, found = model.untouched([text]), erased(model, how, text, tried)
        found = {**found, TWIN.id: model.twin(how, [text])}
        for arm, row in rows.items():
            row.append(poison.effects(before, found[arm.id]))
    for arm, row in rows.items():
        yield lab.record(**axes, mode=arm.mode, share=arm.share, **stacked(row))


def stacked(rows: list[dict[str, float]]) -> dict[str, np.ndarray]:
    """Effects of one fact each as arrays [K]."""
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def find(records: lab.Records, arm: Arm) -> lab.Record:
    """The record of an arm."""
    return records.one(mode=arm.mode, share=arm.share)


def is_learned(records: lab.Records) -> np.ndarray:
    """Whether each fact was learned [K]: of others there is nothing to erase."""
    return find(records, TAUGHT)["gain"] > LEAST_GAIN


def above_twin(record, twin) -> np.ndarray:
    """P(keyword | context) above that of the model that never saw the fact [K]."""
    return np.exp(record["log_after"]) - np.exp(twin["log_after"])


def arm_row(record: lab.Record, records: lab.Records) -> dict:
    """A table row: what an arm left of memory and priming, beside the twin among `records`."""
    taught, twin = find(records, TAUGHT), find(records, TWIN)
    gain = np.where(taught["gain"] > LEAST_GAIN, taught["gain"], np.nan)
    primed = np.where(taught["theme"] > LEAST_PRIMING, taught["theme"], np.nan)
    axes = {name: place for name, place in record.axes.items() if name not in ("mode", "share")}
    return axes | {
        "arm": Arm(record["mode"], record["share"]).words,
        "median P(keyword | context)": median_probability(record["log_after"]),
        "P above twin": spread(above_twin(record, twin)),
        "share of gain kept": spread(record["gain"] / gain),
        "share of log-priming left": spread(record["theme"] / primed),
        "log S_prime": spread(record["log_s_prime"]),
        "log-priming": spread(record["theme"]),
        "corrected": spread(record["corrected"]),
        "clean loss over twin": spread(record["clean"] - twin["clean"]),
        "over untouched": spread(record["clean"]),
    }


def choose(model: Bench) -> tuple[Arm, list[lab.Record]]:
    """The arm for the claims on memory, chosen on facts that no claim uses, and all that it tried.

    Of the arms that raise the clean loss by at most 0.01 nat the one that erases most; of those
    that erase alike, within 0.01 of probability, the one that leaves out least.
    """
    return model.run.once("chosen arm", functools.partial(_choose, model))


def _choose(model: Bench) -> tuple[Arm, list[lab.Record]]:
    words = {text.keyword for text in model.conflicting(few=True)}
    unused = [text for text in load_texts(("conflict_general",)) if text.index == 2]
    texts = [text for text in unused if text.keyword in words]
    candidates = arms(model.config, ("drop_top", "keep_top"))
    how = teaching(model.config)
    found = lab.Records(arm_records(model, how, texts, candidates, "choosing"))
    twin, learned = find(found, TWIN), is_learned(found)
    best, lowest, tried = None, np.inf, []
    for arm in sorted(candidates, key=lambda arm: arm.left_out):
        record = find(found, arm)
        above = above_twin(record, twin)[learned]
        above = above.mean() if learned.any() else np.nan
        clean = np.mean(record["clean"] - twin["clean"])
        found_here = {"facts": learned.sum(), "above": np.asarray(above), "clean": clean}
        tried.append(lab.record("tried", arm=arm.words, **found_here))
        if clean <= 0.01 and max(above, 0.0) < lowest - 0.01:
            best, lowest = arm, max(above, 0.0)
    return best or Arm("drop_top", PUBLISHED_SHARE), tried
