"""How learned optimizers are trained: tasks, estimated gradients, the outer loop."""

from ico.metatrain._estimators import (
    Carried,
    Estimator,
    begin_carried,
    carried_gradient,
    whole_gradient,
)
from ico.metatrain._meta_train import Learned, MetaConfig, meta_train
from ico.metatrain._tasks import Inner, Task, TaskFamily, begin, family_of, inner_step, run

__all__ = [
    "Carried",
    "Estimator",
    "Inner",
    "Learned",
    "MetaConfig",
    "Task",
    "TaskFamily",
    "begin",
    "begin_carried",
    "carried_gradient",
    "family_of",
    "inner_step",
    "meta_train",
    "run",
    "whole_gradient",
]
