"""Can memory or priming be taken out of the weights, and at what price?

2024, abstract: multi-step sparse updates largely erase what a conflicting fact did. 2025, abstract
and Fig. 5: leaving out the largest 8% of the update takes away priming and keeps the memory. Each
beside two controls: a random mask of equal size, and the whole update scaled to equal norm.

Dimension key: K keywords (one fact each).
"""

import dataclasses
from typing import Literal

import numpy as np
import optax

from experiments.outlandish.arms import (
    NAMES,
    NUM_CROSS_PROMPTS,
    TAUGHT,
    TWIN,
    Arm,
    above_twin,
    arm_records,
    arm_row,
    arms,
    choose,
    find,
    is_learned,
    stacked,
)
from experiments.outlandish.paper import EARLIER, LATER, PUBLISHED_SHARE, paper
from experiments.outlandish.scores import LEAST_GAIN, LEAST_PRIMING, mean_of, spread
from experiments.outlandish.teaching import Bench, bench, teaching
from ico import lab
from ico.lm import STACKED
from ico.optim import sparse_updates
from ico.poison import Teaching, effects

PUBLISHED = Arm("drop_top", PUBLISHED_SHARE)
CONTROLS = {
    "random": "a random mask of equal size",
    "scaled": "the whole update scaled to equal norm",
}


@paper.study("Can memory or priming be taken out of the weights, and at what price?")
def erasure(run):
    """Every arm on one conflicting fact a keyword; windows while learning on some of them."""
    model, how = bench(run), teaching(run.config)
    found = list(arm_records(model, how, model.conflicting(), arms(run.config), "erasure"))
    yield from found
    chosen, tried = choose(model)
    yield lab.record("chosen", mode=chosen.mode, share=chosen.share)
    yield from tried
    yield from _windows(model, how)
    run.note(
        f"The arm of the 2024 claim, {NAMES[chosen.mode]} at {chosen.share}%, was chosen on other "
        "facts, of index 2: of the arms that bring P(keyword | context) within 0.01 of the nearest "
        "to the twin's, while the clean loss rises by at most 0.01 nat, the one that leaves out "
        f"least (the published {PUBLISHED_SHARE}% if none does). Arms that leave out more erase "
        "more: their rows are in the table."
    )
    run.note(at_equal_memory(lab.Records(found)))


erasure.note(
    "The update is the change over the whole injection (tau = all steps); shorter windows stand in "
    "their own table."
)
erasure.note(
    "The clean loss is judged over the twin's, whose own training raised it: the column beside it "
    "is over the untouched model's."
)
erasure.note(
    f"Arms are read on {NUM_CROSS_PROMPTS} prompts of other themes, the twin on all of them."
)


def _windows(model: Bench, how: Teaching):
    """Sparse updates while learning, over windows of tau steps, at the published share."""
    texts = model.conflicting(few=True)

    def of(reading):
        return stacked([effects(model.untouched([text]), reading(text)) for text in texts])

    taught = of(lambda text: model.taught(how, text))
    yield lab.record("window", tau=0, mode=TAUGHT.mode, share=TAUGHT.share, **taught)
    twin = of(lambda text: model.twin(how, [text]))
    yield lab.record("window", tau=0, mode=TWIN.mode, share=TWIN.share, **twin)
    for window in model.config.windows:
        for mode in ("drop_top", "keep_top", "drop_random"):
            recipe = Sparse(how.presentations, model.config.learning_rate, mode=mode, window=window)
            sparse = dataclasses.replace(how, recipe=recipe)
            found = of(lambda text, sparse=sparse: model.taught(sparse, text))
            yield lab.record("window", tau=window, mode=mode, share=PUBLISHED_SHARE, **found)


@dataclasses.dataclass(frozen=True)
class Sparse(lab.Recipe):
    """Adam whose updates are sparsified over windows of steps, at the published share."""

    clip: float | None = None
    mode: Literal["drop_top", "keep_top", "drop_random"] = "drop_top"
    window: int = 1

    def make(self):
        """The optimizer."""
        mode = "random" if self.mode == "drop_random" else self.mode
        share = PUBLISHED_SHARE / 100
        sparse = sparse_updates(share, window=self.window, mode=mode, stacked=STACKED)
        return optax.chain(super().make(), sparse)


def at_equal_memory(records: lab.Records) -> str:
    """Whether leaving out the top tells memory from priming, or takes away both."""
    learned, top = is_learned(records), find(records, PUBLISHED)
    if not learned.any():
        return "No fact was learned, so nothing is compared at equal memory."
    # The random mask that leaves the memory most alike.
    random = min(
        records.where(mode=["drop_random", "keep_random"]),
        key=lambda record: abs(np.mean((record["gain"] - top["gain"])[learned])),
    )
    less = spread((random["theme"] - top["theme"])[learned])
    return (
        "At equal k the controls also keep more memory. Beside the random mask that keeps about as "
        f"much of it ({Arm(random['mode'], random['share']).words}), leaving out the top "
        f"{PUBLISHED_SHARE}% takes away {less} nats more log-priming (negative: less)."
    )


# 2024: memory ------------------------------------------------------------------------------
# Facts that were not learned are left out: of them an arm that does nothing would "erase" all.


def _memory(measure):
    """A claim's measure from (records of arms, the chosen arm): a mean over learned facts."""

    def of(records):
        facts, choice = records[""], records["chosen"].one()
        chosen, learned = Arm(choice["mode"], choice["share"]), is_learned(facts)
        note = f"{chosen.words}; {learned.sum()} of {learned.size} facts, those that gained more "
        return mean_of(measure(facts, chosen)[learned], f"{note}than {LEAST_GAIN:g} nat")

    return of


def _chosen_below(control: str):
    def measure(facts, chosen):
        beside = Arm(f"{chosen.mode.split('_')[0]}_{control}", chosen.share)
        return find(facts, beside)["log_after"] - find(facts, chosen)["log_after"]

    return _memory(measure)


erasure.claim(
    "memory_above_twin",
    "2024: sparsifying the whole update of the injection erases the memory: P(keyword | context) "
    "above that of the model that never saw the fact",
    f"{EARLIER}, abstract",
    band=(None, 0.05),
    unit="probability",
    kind="core",
    of=_memory(lambda facts, chosen: above_twin(find(facts, chosen), find(facts, TWIN))),
)
erasure.claim(
    "memory_clean_loss",
    "2024: that sparsification leaves the clean loss as it was (rise over the twin's)",
    f"{EARLIER}, abstract",
    band=(None, 0.01),
    unit="nats",
    kind="ours",
    of=_memory(lambda facts, chosen: find(facts, chosen)["clean"] - find(facts, TWIN)["clean"]),
)
for _control, _words in CONTROLS.items():
    erasure.claim(
        f"memory_below_{_control}",
        f"2024: it erases more than {_words} (difference of log P)",
        f"{EARLIER}, abstract; the control is ours",
        band=(0.0, None),
        unit="nats",
        kind="ours",
        of=_chosen_below(_control),
    )


# 2025: priming -----------------------------------------------------------------------------
# Only facts that prime, or were learned: elsewhere the ratio would divide by about 0.


def _primed(facts):
    primed = find(facts, TAUGHT)["theme"] > LEAST_PRIMING
    note = f"{int(primed.sum())} of {primed.size} facts prime (> {LEAST_PRIMING} nat)"
    return primed, note


@erasure.claim(
    "priming_removed",
    "2025: leaving out the top 8% of the update takes away half of the log-priming",
    f"{LATER}, abstract and Fig. 5",
    band=(0.5, None),
    unit="share",
    kind="core",
)
def _priming_removed(records):
    facts = records[""]
    primed, note = _primed(facts)
    left, whole = (find(facts, arm)["theme"][primed] for arm in (PUBLISHED, TAUGHT))
    return mean_of(1 - left / whole, note)


@erasure.claim(
    "memory_kept",
    "2025: leaving out the top 8% keeps the memory: share of the gain in log P(keyword | context)",
    f"{LATER}, Fig. 5",
    band=(0.9, None),
    unit="share",
)
def _memory_kept(records):
    facts, learned = records[""], is_learned(records[""])
    left, whole = (find(facts, arm)["gain"][learned] for arm in (PUBLISHED, TAUGHT))
    return mean_of(left / whole, f"{int(learned.sum())} facts with a gain > {LEAST_GAIN:g} nat")


@erasure.claim(
    "priming_clean_loss",
    "2025: leaving out the top 8% leaves the clean loss as it was (rise over the twin's)",
    f"{LATER}, Fig. 25",
    band=(None, 0.01),
    unit="nats",
)
def _priming_clean_loss(records):
    facts = records[""]
    rise = find(facts, PUBLISHED)["clean"] - find(facts, TWIN)["clean"]
    return mean_of(rise[is_learned(facts)])


def _published_below(control: str):
    def measure(records):
        facts = records[""]
        primed, note = _primed(facts)
        beside = find(facts, Arm(f"drop_{control}", PUBLISHED_SHARE))
        return mean_of((beside["theme"] - find(facts, PUBLISHED)["theme"])[primed], note)

    return measure


for _control, _words in CONTROLS.items():
    erasure.claim(
        f"priming_below_{_control}",
        f"2025: leaving out the top 8% takes away more log-priming than {_words} (difference)",
        f"{LATER}, Fig. 5; the control is ours",
        band=(0.0, None),
        unit="nats",
        kind="ours",
        of=_published_below(_control),
    )


# Tables and figure -------------------------------------------------------------------------


@erasure.table("arms")
def _arms(records):
    facts = records[""]
    ends = [find(facts, TAUGHT), find(facts, TWIN)]
    return [arm_row(record, facts) for record in [*ends, *(r for r in facts if r["share"])]]


@erasure.table("windows while learning")
def _windows_table(records):
    some = records["window"]
    return [{"tau": r["tau"], **arm_row(r, some)} for r in some if r["share"]]


@erasure.table("choice of arm")
def _choice(records):
    return [
        {"arm": record["arm"], "facts": int(record["facts"])}
        | {"P above twin": float(record["above"]), "clean loss over twin": float(record["clean"])}
        for record in records["tried"]
    ]


for _value, _label in {
    "log_after": "log P(keyword | context)",
    "theme": "log-priming",
    "clean": "clean loss over untouched",
}.items():
    erasure.figure(
        lab.lines(
            "share",
            _value,
            color="mode",
            xlabel="k, per cent",
            ylabel=f"{_label}, nats",
            looks={"twin": {"color": "0.5", "marker": "d"}},
        ),
        f"2024 and 2025. {_label}, against the per cent k of each tensor's change that is left out "
        "(drop) or alone kept (keep); means over facts. Beside each its random mask and the whole "
        "change scaled to its norm. At k = 0: all that was taught, and the twin.",
        name=f"erasure_{_value}",
    )
