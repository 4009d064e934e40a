"""What a new fact does to a language model that keeps training, and how to take it out again."""

from ico.poison import outlandish
from ico.poison._clean import CleanBatches, own_text
from ico.poison._erase import EraseMode, erase
from ico.poison._injection import as_batch, inject, put, replay
from ico.poison._probes import (
    corrected_priming,
    effects,
    log_priming,
    memory_score,
    priming_intervals,
    priming_score,
    top_flips,
)
from ico.poison._rate import searched_rate
from ico.poison._read import Reading, fact_ids, read
from ico.poison._retention import (
    bootstrap_retention,
    decay_rate,
    effectivity,
    find_peak,
    half_life,
    reading_steps,
    retainability,
    without_outliers,
)
from ico.poison._teach import teach
from ico.poison._teacher import FactTeacher, Teaching
from ico.poison._worlds import Cells, InjectionConfig, follow_in_worlds, make_cells
from ico.types import TokenBatch

__all__ = [
    "Cells",
    "CleanBatches",
    "EraseMode",
    "FactTeacher",
    "InjectionConfig",
    "Reading",
    "Teaching",
    "TokenBatch",
    "as_batch",
    "bootstrap_retention",
    "corrected_priming",
    "decay_rate",
    "effectivity",
    "effects",
    "erase",
    "fact_ids",
    "find_peak",
    "follow_in_worlds",
    "half_life",
    "inject",
    "log_priming",
    "make_cells",
    "memory_score",
    "outlandish",
    "own_text",
    "priming_intervals",
    "priming_score",
    "put",
    "read",
    "reading_steps",
    "replay",
    "retainability",
    "searched_rate",
    "teach",
    "top_flips",
    "without_outliers",
]
