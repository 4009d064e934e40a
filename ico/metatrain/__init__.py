"""How learned optimizers are trained (tasks, estimated gradients, the outer loop) and raced."""

from ico.metatrain._attempts import MetaTrained, attempts
from ico.metatrain._contest import Contest, Entrant, Rules, by_hand, counted, hand_designed
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
from ico.metatrain._watching import batches_of, stopwatch, watch

__all__ = [
    "Contest",
    "Entrant",
    "Estimator",
    "Inner",
    "Learned",
    "MetaConfig",
    "MetaTrained",
    "Racer",
    "Rules",
    "SCHEDULES",
    "Task",
    "TaskFamily",
    "Tuned",
    "UnrollState",
    "attempts",
    "batches_of",
    "begin",
    "begin_unrolls",
    "by_hand",
    "counted",
    "family_of",
    "hand_designed",
    "inner_step",
    "meta_train",
    "racer",
    "rates_around",
    "run",
    "schedule",
    "stopwatch",
    "tune",
    "tune_by_runs",
    "watch",
    "whole_gradient",
    "window_gradient",
]
