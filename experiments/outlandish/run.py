"""The studies of `outlandish`, by the names that config.py gives them."""

from experiments.outlandish import erasure, facts, retention, training_ability

STUDIES = {
    "spectrum": facts.spectrum,
    "priming": facts.priming,
    "spacing": facts.spacing,
    "in_context": facts.in_context,
    "stepping_stone": facts.stepping_stone,
    "optimizers": erasure.optimizers,
    "erasure": erasure.erasure,
    "erasure_training_ability": training_ability.erasure_training_ability,
    "retention": retention.retention,
}
