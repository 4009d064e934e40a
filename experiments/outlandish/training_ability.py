"""Whether a model from which a fact was erased still learns: a new fact, and clean text.

Dimension key: K keywords (one fact each), T steps.
"""

import itertools

import jax
import numpy as np

from experiments.outlandish import measuring as ms
from experiments.outlandish.erasure import Arm, changed, choose, difference, name_of
from experiments.outlandish.teaching import Bench, Recipe, bench, recipe
from ico import poison
from ico.poison.outlandish import Text, load_texts
from ico.report import StudyResult

LEAST = 40
_CLEAN_EPOCHS = 4  # over the held-out rows, which neither model has trained on
ERASED = 0.05  # P(keyword | context) above the twin's, at most, where a fact counts as erased
LEARNED = np.log(0.5)  # a fact counts as learned when its keyword is likelier than not


def erasure_training_ability(context) -> StudyResult:
    """A second fact of the keyword's theme is taught to the untouched and to the erased model."""
    b = bench(context)
    config = context.config
    arm, _ = choose(b, recipe(config))
    texts = [group[0] for group in b.texts(("conflict_general",), samples=1, few=True)]
    slow = recipe(
        config,
        learning_rate=config.learning_rate * config.learning_rate_factor,
        presentations=config.learning_steps,
    )
    rows, curves = [], {"untouched": [], "erased": []}
    for text in b.progress(texts, "training ability"):
        new = next(
            other for other in load_texts(("conflict_entity",), per_cell=1)
            if other.theme == text.theme and other.keyword != text.keyword
        )  # fmt: skip
        found = {}
        for model in curves:
            found[model] = _learn(b, slow, text, new, arm if model == "erased" else None)
            curves[model].append(found[model]["log_p"])
        twin = b.twin(recipe(config), [text])["memory"][0]
        left = float(np.exp(found["erased"]["log_erased"]) - np.exp(twin))
        rows.append(
            {
                "erased fact": text.id,
                "P above twin after erasure": left,
                "new fact": new.id,
                "steps, untouched": first_step(found["untouched"]["log_p"]),
                "steps, erased": first_step(found["erased"]["log_p"]),
                "fall of the clean loss, untouched": _fall(b, None, None),
                "fall, erased": _fall(b, text, arm),
            }
        )
    steps = {model: np.array([row[f"steps, {model}"] for row in rows]) for model in curves}
    gone = np.array([row["P above twin after erasure"] <= ERASED for row in rows])
    ratio = step_ratios(steps["untouched"], steps["erased"], config.learning_steps)
    ratio = np.where(gone, ratio, np.nan)
    erased = f"{gone.sum()} of {len(rows)} facts were erased"
    note = f"{erased}; {int(np.isfinite(ratio).sum())} of them count, whose new fact took the "
    note += f"untouched model {LEAST} steps or more, and few enough for {config.learning_steps}"
    fall = "fall of the clean loss, untouched"
    less = np.array([row[fall] - row["fall, erased"] for row in rows])
    less = np.where(gone, less, np.nan)
    claims = [
        ms.mean("erasure_training_ability.steps", ratio, note),
        ms.mean("erasure_training_ability.clean_loss", less, erased),
    ]
    for row in rows:
        for model in curves:
            limit = row[f"steps, {model}"]
            row[f"steps, {model}"] = limit if np.isfinite(limit) else f"> {config.learning_steps}"
    arrays = {model: np.full((len(rows), config.learning_steps), np.nan) for model in curves}
    for model, values in curves.items():
        for number, log_p in enumerate(values):
            arrays[model][number, : len(log_p)] = log_p
    notes = [
        "A fact is learned when P(keyword | context) exceeds one half; read at every step. The "
        f"erased model was taught a fact first; then {name_of(arm)}, as in the study erasure.",
        f"The fall of the clean loss is that on the held-out rows while they are trained on, "
        f"{_CLEAN_EPOCHS} times over, from either model, at the rate at which facts are taught.",
    ]
    return StudyResult(claims, {"steps to learn": rows}, arrays, notes)


def step_ratios(untouched_K, erased_K, limit: int) -> np.ndarray:
    """Steps of the erased over those of the untouched model [K]; NaN where they say nothing.

    A fact counts if the untouched model needs at least `LEAST` steps, as the claim wants, and at
    most limit / 1.25: then an erased model that does not learn it within the limit has a ratio
    above 1.25, which is the value taken, and no slow learner passes for an equal one.
    """
    counts = (untouched_K >= LEAST) & (1.25 * untouched_K <= limit)
    known = np.where(counts, untouched_K, 1)
    return np.where(counts, np.minimum(erased_K, limit) / known, np.nan)


def first_step(log_p_T: np.ndarray) -> float:
    """The first step, from 1, after which the fact counts as learned; inf if none."""
    above = np.flatnonzero(np.asarray(log_p_T) > LEARNED)
    return float(above[0] + 1) if above.size else float("inf")


def _start(b: Bench, text: Text | None, arm: Arm | None):
    """The untouched parameters, or those that were taught a fact from which `arm` then took it."""
    params = b.lm.params
    if arm is None or text is None:
        return params
    state, *_ = b.teach(recipe(b.config), text.keyword, b.tokens(text.context, text.keyword))
    return changed(params, difference(params, state.params), arm, jax.random.key(0))


def _fall(b: Bench, text: Text | None, arm: Arm | None) -> float:
    """By how much the loss on the held-out rows falls, in nats, while they are trained on."""
    how, config = recipe(b.config), b.config

    def make():
        params, trainer = _start(b, text, arm), b.trainer(how)
        rows = poison.CleanBatches(b.held_out, min(config.batch_size, len(b.held_out)))
        steps = _CLEAN_EPOCHS * max(1, len(b.held_out) // config.batch_size)
        state, _ = trainer.run(trainer.init(params), itertools.islice(rows, steps))
        fall = b.clean_loss(params) - b.clean_loss(state.params)
        return {"fall": np.asarray(fall)}

    spec = {"text": text and text.id, "recipe": how, "arm": arm and arm.id,
            "epochs": _CLEAN_EPOCHS, "batch": [config.batch_size, config.length],
            "clean": [config.clean, config.clean_rows, config.held_out_rows]}  # fmt: skip
    return float(b.kept(f"fall-{text.id if text else 'untouched'}", spec, make)["fall"])


def _learn(b: Bench, slow: Recipe, text: Text, new: Text, arm: Arm | None):
    """log P [T] of the new fact while it is taught; "log_erased" is what is left of the first.

    From the model without the first fact, and with `arm` from the one that it was taught to and
    taken from again.
    """

    def make():
        params = _start(b, text, arm)
        left = b.memory(params, text)
        trainer = b.trainer(slow)
        state = trainer.init(params)
        ids = b.tokens(new.context, new.keyword)
        batches = poison.inject(b.clean(new.keyword), [ids], presentations=slow.presentations)
        log_p = []
        for batch in itertools.islice(batches, slow.presentations):
            state, _ = trainer.run(state, [batch])
            log_p.append(b.memory(state.params, new))
            if log_p[-1] > LEARNED:
                break
        return {"log_p": np.asarray(log_p), "log_erased": np.asarray(left)}

    spec = {"text": text.id, "new": new.id, "recipe": slow, "arm": arm and arm.id,
            **b.prompt_spec(text)}  # fmt: skip
    return b.kept(f"ability-{'erased' if arm else 'untouched'}-{text.id}", spec, make)
