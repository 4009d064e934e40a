"""Losses that are more than a cross-entropy: pure functions of answers, embeddings and targets."""

from ico.losses._distillation import (
    TargetRule,
    choose_targets,
    embedding_distance,
    soft_cross_entropy,
)

__all__ = ["TargetRule", "choose_targets", "embedding_distance", "soft_cross_entropy"]
