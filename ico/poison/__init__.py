"""What a new fact does to a language model that keeps training, and how to take it out again."""

from ico.poison import outlandish
from ico.poison._clean import CleanBatches, own_text, text_rows, tfds_texts
from ico.poison._injection import Batch, as_batch, inject, put, replay
from ico.poison._probes import (
    corrected_priming,
    log_priming,
    memory_score,
    priming_intervals,
    priming_score,
    top_flips,
)
from ico.poison._retention import (
    bootstrap_retention,
    decay_rate,
    effectivity,
    find_peak,
    half_life,
    retainability,
    without_outliers,
)
from ico.poison._trainer import Trainer
from ico.poison._world import (
    PAPER_WORLD,
    World,
    WorldConfig,
    make_world,
    replay_rates,
    sample_text,
)
from ico.poison._world_facts import FACT_TYPES, Facts, FactType, facts, theme_prefixes
from ico.poison._world_model import (
    GATES,
    check_gates,
    gates,
    next_word_log_probs,
    train_worlds,
    world_decoder,
)

__all__ = [
    "FACT_TYPES",
    "GATES",
    "PAPER_WORLD",
    "Batch",
    "CleanBatches",
    "FactType",
    "Facts",
    "Trainer",
    "World",
    "WorldConfig",
    "as_batch",
    "bootstrap_retention",
    "check_gates",
    "corrected_priming",
    "decay_rate",
    "effectivity",
    "facts",
    "find_peak",
    "gates",
    "half_life",
    "inject",
    "log_priming",
    "make_world",
    "memory_score",
    "next_word_log_probs",
    "outlandish",
    "own_text",
    "priming_intervals",
    "priming_score",
    "put",
    "replay",
    "replay_rates",
    "retainability",
    "sample_text",
    "text_rows",
    "tfds_texts",
    "theme_prefixes",
    "top_flips",
    "train_worlds",
    "without_outliers",
    "world_decoder",
]
