"""Can memory or priming be taken out of the weights, and at what price?

2024, abstract: multi-step sparse updates largely erase what a conflicting fact did. 2025, abstract
and Fig. 5: leaving out the largest 8% of the update takes away priming and keeps the memory. Each
beside two controls: a random mask of equal size, and the whole update scaled to equal norm.

Dimension key: K keywords (one fact each).
"""

import dataclasses
import functools
from typing import Literal

import numpy as np
import optax

from experiments.outlandish.arms import (
    NUM_CROSS_PROMPTS,
    TAUGHT,
    TWIN,
    Arm,
    arm_records,
    arm_row,
    arms,
    choose,
    find,
    is_learned,
    stacked,
)
from experiments.outlandish.paper import EARLIER, LATER, PUBLISHED_SHARE, paper
from experiments.outlandish.scores import LEAST_GAIN, LEAST_PRIMING, mean_of, numbers, spread
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
        f"The arm of the 2024 claim, {chosen.words}, was chosen on facts of index 2: of those "
        "nearest to the twin (within 0.01 of probability) at 0.01 nat of clean loss or less, that "
        f"which leaves out least (the published {PUBLISHED_SHARE}% if none). Others erase more."
    )
    run.note(at_equal_memory(lab.Records(found)))


erasure.note(
    "The update is the change over the whole injection; shorter windows tau have their own table.",
    "The clean loss is judged over the twin's, whose own training raised it.",
    f"Arms are read on {NUM_CROSS_PROMPTS} prompts of other themes, the twin on all of them.",
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


def _over_facts(measure, arm: Arm | None = PUBLISHED, primed: bool = False):
    """A claim's measure: the mean of `measure(at, arm)`, where `at(arm, effect)` is [K].

    Of the facts that were learned, or with `primed` of those that prime: of others an arm that does
    nothing would "erase" all, and a share would be one of about 0. Without `arm` the chosen one's.
    """

    def of(records):
        facts, used = records[""], arm
        if used is None:
            choice = records["chosen"].one()
            used = Arm(choice["mode"], choice["share"])
        counts, why = is_learned(facts), f"gained more than {LEAST_GAIN:g} nat"
        if primed:
            counts = find(facts, TAUGHT)["theme"] > LEAST_PRIMING
            why = f"prime (> {LEAST_PRIMING} nat)"

        def at(arm, effect):
            return find(facts, arm)[effect][counts]

        note = f"{used.words}; {counts.sum()} of {counts.size} facts, those that {why}"
        return mean_of(measure(at, used), note)

    return of


def _less_than(control: str, effect: str, **options):
    def measure(at, arm):
        return at(Arm(f"{arm.mode.split('_')[0]}_{control}", arm.share), effect) - at(arm, effect)

    return _over_facts(measure, **options)


def _clean_over_twin(at, arm):
    return at(arm, "clean") - at(TWIN, "clean")


memory = functools.partial(erasure.claim, source=f"{EARLIER}, abstract")
memory(
    "memory_above_twin",
    "2024: sparsifying the whole update of the injection erases the memory: P(keyword | context) "
    "above that of the model that never saw the fact",
    band=(None, 0.05),
    unit="probability",
    kind="core",
    of=_over_facts(
        lambda at, arm: np.exp(at(arm, "log_after")) - np.exp(at(TWIN, "log_after")), arm=None
    ),
)
memory(
    "memory_clean_loss",
    "2024: that sparsification leaves the clean loss as it was (rise over the twin's)",
    band=(None, 0.01),
    unit="nats",
    kind="ours",
    of=_over_facts(_clean_over_twin, arm=None),
)
more = functools.partial(erasure.claim, band=(0.0, None), unit="nats", kind="ours")
for _control, _words in CONTROLS.items():
    more(
        f"memory_below_{_control}",
        f"2024: it erases more than {_words} (difference of log P)",
        f"{EARLIER}, abstract; the control is ours",
        of=_less_than(_control, "log_after", arm=None),
    )
erasure.claim(
    "priming_removed",
    "2025: leaving out the top 8% of the update takes away half of the log-priming",
    f"{LATER}, abstract and Fig. 5",
    band=(0.5, None),
    unit="share",
    kind="core",
    of=_over_facts(lambda at, arm: 1 - at(arm, "theme") / at(TAUGHT, "theme"), primed=True),
)
erasure.claim(
    "memory_kept",
    "2025: leaving out the top 8% keeps the memory: share of the gain in log P(keyword | context)",
    f"{LATER}, Fig. 5",
    band=(0.9, None),
    unit="share",
    of=_over_facts(lambda at, arm: at(arm, "gain") / at(TAUGHT, "gain")),
)
erasure.claim(
    "priming_clean_loss",
    "2025: leaving out the top 8% leaves the clean loss as it was (rise over the twin's)",
    f"{LATER}, Fig. 25",
    band=(None, 0.01),
    unit="nats",
    of=_over_facts(_clean_over_twin),
)
for _control, _words in CONTROLS.items():
    more(
        f"priming_below_{_control}",
        f"2025: leaving out the top 8% takes away more log-priming than {_words} (difference)",
        f"{LATER}, Fig. 5; the control is ours",
        of=_less_than(_control, "theme", primed=True),
    )


@erasure.table("arms")
def _arms(records):
    return [arm_row(record, records[""]) for record in records[""]]


@erasure.table("windows while learning")
def _windows_table(records):
    some = records["window"]
    return [arm_row(record, some) for record in some if record["share"]]


erasure.table("choice of arm", numbers("tried"))
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
        f"2024 and 2025. {_label}, by the per cent k of each tensor's change that is left out "
        "(drop) or alone kept (keep); means over facts. At k = 0: as taught, and the twin.",
        name=f"erasure_{_value}",
    )
