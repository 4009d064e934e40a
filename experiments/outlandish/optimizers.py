"""Does it depend on the optimizer, and does leaving out the top of the update?

No claim: a map of where erasure holds. Which optimizer the papers used is UNVERIFIED.
"""

import dataclasses

import numpy as np
import optax

from experiments.outlandish.arms import TAUGHT, arm_records, arm_row, arms
from experiments.outlandish.paper import paper
from experiments.outlandish.teaching import Bench, bench, teaching
from ico import lab, poison
from ico.poison import Teaching
from ico.poison.outlandish import load_texts

MODES = ("drop_top", "drop_random")


@paper.study("Does it depend on the optimizer, and does dropping the top of the update?")
def optimizers(run):
    """The same facts taught by other optimizers, and the published 8% left out of each."""
    model = bench(run)
    texts = model.conflicting(few=True)
    for name, how in _optimizers(model).items():
        # All arms for the first, which the study erasure needs as well, so nothing runs twice.
        tried = arms(run.config) if how == teaching(run.config) else arms(run.config, MODES)
        axes = {"optimizer": name, "rate": how.recipe.learning_rate}
        yield from arm_records(model, how, texts, tried, name, **axes)
    run.note(
        f"{len(texts)} conflicting facts; no claim. Learning rates were searched on a fact of "
        "index 2, so that P_after comes near 0.5."
    )


def _optimizers(model: Bench) -> dict[str, Teaching]:
    fresh = teaching(model.config)
    rate, steps = model.config.learning_rate, model.config.presentations
    # Unclipped, a learning rate that teaches one fact diverges on the next.
    others = {"SGD, clipped": lab.Recipe(steps, 0.1, "sgd"), "Adafactor": Adafactor(steps, rate)}
    carried = dataclasses.replace(fresh, carried=True)
    tried = {"Adam, carried": carried}
    tried |= {name: dataclasses.replace(fresh, recipe=recipe) for name, recipe in others.items()}
    found = {name: _searched(model, how) for name, how in tried.items()}
    return {"Adam, fresh": fresh, **found}


class Adafactor(lab.Recipe):
    """Adafactor whose update is not relative to a tensor's own scale, as it is by default."""

    def make(self):
        """The optimizer."""
        return optax.adafactor(self.learning_rate, multiply_by_parameter_scale=False)


def _searched(model: Bench, how: Teaching) -> Teaching:
    """With the learning rate that is best on a fact that no claim uses."""
    text = next(text for text in load_texts(("conflict_general",)) if text.index == 2)

    def at(rate: float) -> Teaching:
        recipe = dataclasses.replace(how.recipe, learning_rate=rate)
        return dataclasses.replace(how, recipe=recipe)

    def learned(rate: float) -> float:
        return float(np.exp(model.taught(at(rate), text)["memory"][0]))

    return at(poison.searched_rate(learned, how.recipe.learning_rate, model.config.rates_tried))


@optimizers.table("optimizers")
def _table(records):
    shown = records.where(mode=[TAUGHT.mode, *MODES])
    return [arm_row(one, records.where(optimizer=one["optimizer"])) for one in shown]


for _value, _label in {"gain": "gain of the fact", "theme": "log-priming"}.items():
    optimizers.figure(
        lab.lines(
            "share",
            _value,
            color="optimizer",
            panel="mode",
            mode=list(MODES),
            xlabel="k, per cent left out",
            ylabel=f"{_label}, nats",
        ),
        f"{_label} that is left when the largest k per cent of each tensor's change are left out, "
        "or as many at random, for facts taught by four optimizers.",
        name=f"optimizers_{_value}",
    )
