"""What a new fact does to a language model that keeps training, and how to take it out again."""

from ico.poison._injection import Batch, as_batch, inject, own_text, train
from ico.poison._probes import corrected_priming, log_priming, memory_score, priming_score

__all__ = [
    "Batch",
    "as_batch",
    "corrected_priming",
    "inject",
    "log_priming",
    "memory_score",
    "own_text",
    "priming_score",
    "train",
]
