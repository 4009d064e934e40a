"""The studies of `outlandish`, by the names that config.py gives them."""

import functools

import jax

from experiments.outlandish import erasure, facts, retention, training_ability


def _exact(study):
    """The study with matrix products at full precision, which accelerators round by default."""

    @functools.wraps(study)
    def run(context):
        with jax.default_matmul_precision("highest"):
            return study(context)

    return run


_STUDIES = {
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
STUDIES = {name: _exact(study) for name, study in _STUDIES.items()}
