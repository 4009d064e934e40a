"""What a new fact does to a language model that keeps training, and how to take it out again."""

from ico.poison import outlandish
from ico.poison._clean import CleanBatches, own_text
from ico.poison._injection import as_batch, inject, put, replay
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
from ico.poison._teach import teach
from ico.types import TokenBatch

__all__ = [
    "CleanBatches",
    "TokenBatch",
    "as_batch",
    "bootstrap_retention",
    "corrected_priming",
    "decay_rate",
    "effectivity",
    "find_peak",
    "half_life",
    "inject",
    "log_priming",
    "memory_score",
    "outlandish",
    "own_text",
    "priming_intervals",
    "priming_score",
    "put",
    "replay",
    "retainability",
    "teach",
    "top_flips",
    "without_outliers",
]
