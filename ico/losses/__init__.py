"""Losses that are more than a cross-entropy: pure functions of answers, embeddings and targets."""

from ico.losses._distillation import (
    TargetRule,
    choose_targets,
    embedding_distance,
    soft_cross_entropy,
)
from ico.losses._unlearning import gradient_ascent, gradient_difference, npo, rmu, simnpo

__all__ = [
    "TargetRule",
    "choose_targets",
    "embedding_distance",
    "gradient_ascent",
    "gradient_difference",
    "npo",
    "rmu",
    "simnpo",
    "soft_cross_entropy",
]
