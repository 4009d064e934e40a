"""How learned optimizers are trained (tasks, estimated gradients, the outer loop) and raced."""

from ico.metatrain._estimators import (
    Estimator,
    UnrollState,
    begin_unrolls,
    whole_gradient,
    window_gradient,
)
from ico.metatrain._meta_train import Learned, MetaConfig, meta_train
from ico.metatrain._racing import (
    SCHEDULES,
    Racer,
    Tuned,
    racer,
    rates_around,
    schedule,
    tune,
    tune_by_runs,
)
from ico.metatrain._tasks import Inner, Task, TaskFamily, begin, family_of, inner_step, run

__all__ = [
    "Racer",
    "SCHEDULES",
    "UnrollState",
    "Estimator",
    "Inner",
    "Learned",
    "MetaConfig",
    "Task",
    "TaskFamily",
    "Tuned",
    "begin",
    "begin_unrolls",
    "window_gradient",
    "family_of",
    "inner_step",
    "meta_train",
    "racer",
    "rates_around",
    "run",
    "schedule",
    "tune",
    "tune_by_runs",
    "whole_gradient",
]
