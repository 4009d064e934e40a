"""Do clauses that lead up to the keyword take away the surprise, and with it the priming?

2025, abstract and Fig. 6: rewritten so that clauses before the keyword make it likelier, a text
primes half as much or less, and less than one that is plainly rewritten.
"""

import numpy as np

from experiments.outlandish.paper import LATER, paper
from experiments.outlandish.scores import (
    LEAST_PRIMING,
    effect_row,
    effects_of,
    mean_of,
    median_of,
    spread,
)
from experiments.outlandish.teaching import bench, teaching
from ico import lab

WAYS = {
    "as it is": lambda text: text.context,
    "stepping stones": lambda text: text.stepping_stone,
    "plain rewrite": lambda text: text.rewrite,
}


@paper.study("Do clauses that lead up to the keyword take the surprise, and the priming?")
def stepping_stone(run):
    """A conflicting fact as it is, with stepping stones, and plainly rewritten at like length."""
    model = bench(run)
    texts = model.conflicting()
    for way, context_of in WAYS.items():
        # As it is, it is taught as in the study priming; the rewritten texts need longer rows.
        length = 0 if way == "as it is" else max(run.config.length, 48)
        how = teaching(run.config, length=length)
        taught_by = model.followed if way == "as it is" else model.taught

        def taught(text, taught_by=taught_by, how=how, context_of=context_of):
            return taught_by(how, text, context_of(text))

        found = effects_of(model, [[text] for text in texts], taught, way)
        contexts = [context_of(text) for text in texts]
        scores = model.score(model.lm.params, contexts, [text.continuation for text in texts])
        effects_K = {name: values[:, 0] for name, values in found.items()}
        yield lab.record(way=way, **effects_K, log_before_in_this_text=scores.log_prob)


stepping_stone.note("Memory is read on the text as it is, whichever way was taught.")


def _primed_by(records, way: str):
    return records.one(way=way)["log_s_prime"]


@stepping_stone.claim(
    "priming_removed",
    "Stepping stones take away at least half of the log-priming (log S_prime): the median share",
    f"{LATER}, abstract and Fig. 6",
    band=(0.5, None),
    unit="share",
    kind="core",
)
def _priming_removed(records):
    plain, stones = (_primed_by(records, way) for way in ("as it is", "stepping stones"))
    # A share of priming means something only where there is priming.
    shares = 1 - stones / np.maximum(plain, LEAST_PRIMING)
    removed = np.where(plain > LEAST_PRIMING, shares, np.nan)
    primed = int(np.isfinite(removed).sum())
    return median_of(removed, f"{primed} of {removed.size} facts prime (> {LEAST_PRIMING} nat)")


@stepping_stone.claim(
    "better_than_rewrite",
    "Stepping stones take away more priming than a plain rewrite of like length (log S_prime, "
    "difference)",
    f"{LATER}, Figs. 6, 26-28",
    band=(0.0, None),
    unit="nats",
)
def _better_than_rewrite(records):
    rewrite, stones = (_primed_by(records, way) for way in ("plain rewrite", "stepping stones"))
    gains = ", ".join(f"{spread(record['gain'])} ({record['way']})" for record in records)
    note = f"but less is learned: gain on the text as it is {gains}"
    return mean_of(rewrite - stones, note)


@stepping_stone.table("ways to tell it")
def _ways(records):
    return [
        effect_row(record)
        | {"log P before in this text": spread(record["log_before_in_this_text"])}
        for record in records
    ]


for _value, _label in {"log_s_prime": "log S_prime", "gain": "gain of the fact"}.items():
    stepping_stone.figure(
        lab.bars(_value, color="way", ylabel=f"{_label}, nats"),
        f"2025, Fig. 6. {_label} on the text as it is, after learning the conflicting fact as it "
        "is, with clauses that lead up to the keyword, and plainly rewritten at like length.",
        name=f"stepping_stone_{_value}",
    )
