"""Does the model still learn after erasure?

2024, abstract: erased by sparse updates "even while the training ability of the model is
preserved". Here: a new fact takes as many steps as before, and clean text is learned as well.

Dimension key: K keywords (one fact each), T steps.
"""

import functools

import jax
import numpy as np

from experiments.outlandish.arms import Arm, choose, difference, erase
from experiments.outlandish.paper import EARLIER, paper
from experiments.outlandish.scores import mean_of, numbers
from experiments.outlandish.teaching import Bench, bench, teaching
from ico import lab, poison
from ico.poison import Teaching
from ico.poison.outlandish import Text, load_texts

LEAST_STEPS = 40  # of the untouched model; a ratio of fewer is too coarse
CLEAN_EPOCHS = 4  # over the held-out rows, which neither model has trained on
ERASED = 0.05  # P(keyword | context) above the twin's, at most, where a fact counts as erased
LEARNED = np.log(0.5)  # a fact counts as learned when its keyword is likelier than not


@paper.study("Does the model still learn after erasure?")
def erasure_training_ability(run):
    """A second fact of the keyword's theme is taught to the untouched and to the erased model."""
    model, config = bench(run), run.config
    arm, _ = choose(model)
    rate = config.learning_rate * config.learning_rate_factor
    slow = teaching(config, config.learning_steps, rate=rate)
    for text in model.progress(model.conflicting(few=True), "training ability"):
        others = load_texts(("conflict_entity",), per_cell=1)
        new = next(o for o in others if o.theme == text.theme and o.keyword != text.keyword)
        twin = model.twin(teaching(config), [text])["memory"][0]
        for name, used in (("untouched", None), ("erased", arm)):
            found = _learn(model, slow, text, new, used)
            padded_T = np.full(config.learning_steps, np.nan)
            padded_T[: len(found["log_p"])] = found["log_p"]
            yield lab.record(
                text=text.id,
                new=new.id,
                model=name,
                presentation=1 + np.arange(config.learning_steps),
                log_p=padded_T,
                steps=np.asarray(first_step(found["log_p"])),
                above_twin=np.exp(found["log_left"]) - np.exp(twin),
                fall=np.asarray(_fall(model, text if used else None, used)),
            )
    run.note(
        "A fact is learned when P(keyword | context) exceeds one half; read at every step, of "
        f"{config.learning_steps}. The table's `text` is erased before `new` is taught. The "
        f"erased model was taught a fact first; then {arm.words}, as in the study erasure."
    )


erasure_training_ability.note(
    "The fall of the clean loss is that on the held-out rows while they are trained on, "
    f"{CLEAN_EPOCHS} times over, from either model, at the rate at which facts are taught."
)


def _start(model: Bench, text: Text | None, arm: Arm | None):
    """The untouched parameters, or those that were taught a fact from which `arm` then took it."""
    before = model.lm.params
    if arm is None or text is None:
        return before
    ids = model.tokens(text.context, text.keyword)
    state, *_ = model.teach(teaching(model.config), text.keyword, ids)
    return erase(before, difference(state.params, before), arm, jax.random.key(0))


def _learn(model: Bench, slow: Teaching, text: Text, new: Text, arm: Arm | None):
    """log P [T] of the new fact while it is taught; "log_left" is what is left of the first."""

    def make():
        state = params = _start(model, text, arm)
        left, log_p = model.memory(params, text), []
        ids = model.tokens(new.context, new.keyword)
        batches = poison.inject(model.clean(new.keyword), [ids], presentations=slow.presentations)
        while len(log_p) < slow.presentations and (not log_p or log_p[-1] <= LEARNED):
            state = model.train(slow.recipe, state, batches, 1).state
            log_p.append(model.memory(state.params, new))
        return {"log_p": np.asarray(log_p), "log_left": np.asarray(left)}

    spec = {"text": text.id, "new": new.id, "teaching": slow, "arm": arm and arm.id}
    name = f"ability-{'erased' if arm else 'untouched'}-{text.id}"
    return model.kept(name, spec | model.spec(text), make)


def _fall(model: Bench, text: Text | None, arm: Arm | None) -> float:
    """By how much the loss on the held-out rows falls, in nats, while they are trained on."""
    how, config = teaching(model.config), model.config

    def make():
        params, rows = _start(model, text, arm), model.held_out
        batches = poison.CleanBatches(rows, min(config.batch_size, len(rows)))
        num_steps = CLEAN_EPOCHS * max(1, len(rows) // config.batch_size)
        trained = model.train(how.recipe, params, batches, num_steps)
        return {"fall": np.asarray(model.clean_loss(params) - model.clean_loss(trained.params))}

    spec = {"text": text and text.id, "teaching": how, "arm": arm and arm.id}
    spec |= {"epochs": CLEAN_EPOCHS}
    spec |= {"batch": [config.batch_size, model.rows, model.held_out]}
    return float(model.kept(f"fall-{text.id if text else 'untouched'}", spec, make)["fall"])


def first_step(log_p_T: np.ndarray) -> float:
    """The first step, from 1, after which the fact counts as learned; inf if none."""
    above = np.flatnonzero(np.asarray(log_p_T) > LEARNED)
    return float(above[0] + 1) if above.size else float("inf")


def step_ratios(untouched_K, erased_K, limit: int) -> np.ndarray:
    """Steps of the erased over those of the untouched model [K]; NaN where they say nothing.

    A fact counts if the untouched model needs at least `LEAST_STEPS`, and at most limit / 1.25:
    then an erased model that does not learn it within the limit has a ratio above 1.25, which is
    the value taken, and no slow learner passes for an equal one.
    """
    counts = (untouched_K >= LEAST_STEPS) & (1.25 * untouched_K <= limit)
    known = np.where(counts, untouched_K, 1)
    return np.where(counts, np.minimum(erased_K, limit) / known, np.nan)


def _pairs(records, value: str):
    """A value [K] of the untouched models and of the erased ones, and whether facts are erased."""
    untouched, erased = (records.where(model=name) for name in ("untouched", "erased"))
    gone = erased.stack("above_twin") <= ERASED
    return untouched.stack(value), erased.stack(value), gone


claim = functools.partial(
    erasure_training_ability.claim, source=f"{EARLIER}, abstract", kind="core"
)


@claim(
    "steps",
    "After erasure a new fact is learned in as many steps as before (ratio)",
    band=(0.8, 1.2),
    unit="ratio",
)
def _steps(records):
    untouched, erased, gone = _pairs(records, "steps")
    limit = records.stack("log_p").shape[1]
    ratios = np.where(gone, step_ratios(untouched, erased, limit), np.nan)
    return mean_of(
        ratios,
        f"{gone.sum()} of {gone.size} facts were erased; {int(np.isfinite(ratios).sum())} of them "
        f"count, whose new fact took the untouched model {LEAST_STEPS} steps or more, and few "
        f"enough for {limit}",
    )


@claim(
    "clean_loss",
    "After erasure the loss on new clean rows falls as before while they are trained on (fall of "
    "the untouched model less that of the erased one)",
    band=(None, 0.01),
    unit="nats",
)
def _clean_loss(records):
    untouched, erased, gone = _pairs(records, "fall")
    less = np.where(gone, untouched - erased, np.nan)
    return mean_of(less, f"{gone.sum()} of {gone.size} facts were erased")


erasure_training_ability.table("steps to learn", numbers())
erasure_training_ability.figure(
    lab.lines(
        "presentation",
        "log_p",
        color="model",
        panel="text",
        xlabel="presentations of the new fact",
        ylabel="log P(keyword | context)",
    ),
    "A new fact taught to the untouched model and to one from which the fact that names the panel "
    "was erased (not always wholly: see the table), until it is likelier than not.",
    name="training_ability",
)
