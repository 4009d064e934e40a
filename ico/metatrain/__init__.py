"""How learned optimizers are trained: tasks, estimated gradients, the outer loop."""

from ico.metatrain._estimators import (
    Estimator,
    UnrollState,
    begin_unrolls,
    whole_gradient,
    window_gradient,
)
from ico.metatrain._meta_train import Learned, MetaConfig, meta_train
from ico.metatrain._tasks import Inner, Task, TaskFamily, begin, family_of, inner_step, run

__all__ = [
    "UnrollState",
    "Estimator",
    "Inner",
    "Learned",
    "MetaConfig",
    "Task",
    "TaskFamily",
    "begin",
    "begin_unrolls",
    "window_gradient",
    "family_of",
    "inner_step",
    "meta_train",
    "run",
    "whole_gradient",
]
