"""The studies of `mesa_optimization`, by the names that config.py gives them."""

from experiments.mesa_optimization import (
    comparison,
    constructed,
    few_shot,
    language,
    linearisation,
    probing,
    recall,
)

STUDIES = {
    "one_layer_gd": constructed.one_layer_gd,
    "deep": constructed.deep,
    "token_binding": probing.token_binding,
    "probes": probing.probes,
    "linearisation": linearisation.linearisation,
    "few_shot": few_shot.few_shot,
    "model_comparison": comparison.model_comparison,
    "recall": recall.recall,
    "language": language.language,
}
