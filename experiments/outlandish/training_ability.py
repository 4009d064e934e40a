"""Whether a model from which a fact was erased still learns: a new fact, and clean text.

Dimension key: K keywords (one fact each), T steps.
"""

import itertools

import jax
import numpy as np

from experiments.outlandish import measuring as ms
from experiments.outlandish.erasure import PUBLISHED, Arm, changed, difference
from experiments.outlandish.teaching import Bench, Recipe, bench, recipe
from ico import poison
from ico.poison.outlandish import Text, load_texts
from ico.report import StudyResult

LEARNED = np.log(0.5)  # a fact counts as learned when its keyword is likelier than not


def erasure_training_ability(context) -> StudyResult:
    """A second fact of the keyword's theme is taught to the untouched and to the erased model."""
    b = bench(context)
    config = context.config
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
            found[model] = _learn(b, slow, text, new, model)
            curves[model].append(found[model]["log_p"])
        rows.append(
            {
                "erased fact": text.id,
                "new fact": new.id,
                "steps, untouched": first_step(found["untouched"]["log_p"]),
                "steps, erased": first_step(found["erased"]["log_p"]),
                "clean loss, untouched": float(found["untouched"]["clean_loss"].mean()),
                "clean loss, erased": float(found["erased"]["clean_loss"].mean()),
            }
        )
    steps = {model: np.array([row[f"steps, {model}"] for row in rows]) for model in curves}
    learned = np.isfinite(steps["untouched"])
    ratio = np.where(learned, steps["erased"] / np.where(learned, steps["untouched"], 1), np.nan)
    # Not learned within the limit by the erased model alone: at least that many steps.
    ratio = np.where(np.isinf(ratio), config.learning_steps / steps["untouched"], ratio)
    slowest = steps["untouched"][learned]
    note = f"{int(learned.sum())} of {len(rows)} facts were learned by the untouched model; "
    note += f"its least steps: {slowest.min():.0f} (40 are wanted)" if slowest.size else ""
    rise = np.array([row["clean loss, erased"] - row["clean loss, untouched"] for row in rows])
    claims = [
        ms.mean("erasure_training_ability.steps", ratio, note),
        ms.mean("erasure_training_ability.clean_loss", rise),
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
        f"A fact is learned when P(keyword | context) exceeds one half; read at every step. The "
        f"erased model was taught a fact first, of which the top {PUBLISHED}% were left out."
    ]
    return StudyResult(claims, {"steps to learn": rows}, arrays, notes)


def first_step(log_p_T: np.ndarray) -> float:
    """The first step, from 1, after which the fact counts as learned; inf if none."""
    above = np.flatnonzero(np.asarray(log_p_T) > LEARNED)
    return float(above[0] + 1) if above.size else float("inf")


def _learn(b: Bench, slow: Recipe, text: Text, new: Text, model: str):
    """log P [T] of the new fact while it is taught, and the losses [T] of clean rows."""

    def make():
        params = b.lm.params
        if model == "erased":
            first = recipe(b.config)
            state, *_ = b.teach(first, text.keyword, b.tokens(text.context, text.keyword))
            delta = difference(params, state.params)
            params = changed(params, delta, Arm("drop_top", PUBLISHED), jax.random.key(0))
        trainer = b.trainer(slow)
        state = trainer.init(params)
        ids = b.tokens(new.context, new.keyword)
        batches = poison.inject(b.clean(new.keyword), [ids], presentations=slow.presentations)
        log_p, clean = [], []
        for batch in itertools.islice(batches, slow.presentations):
            state, metrics = trainer.run(state, [batch])
            log_p.append(b.memory(state.params, new))
            clean.append(metrics["loss"][0])
            if log_p[-1] > LEARNED:
                break
        rest = itertools.islice(b.clean(f"{new.keyword} after"), len(b.config.retention_steps) + 4)
        _, metrics = trainer.run(state, rest)
        return {"log_p": np.array(log_p), "clean_loss": metrics["loss"]}

    spec = {"text": text.id, "new": new.id, "recipe": slow, "model": model,
            **b.prompt_spec(text)}  # fmt: skip
    return b.kept(f"ability-{model}-{text.id}", spec, make)
