"""Optimizers as optax transforms, one file each."""

from ico.optim._adafac_mlp import adafac_mlp, adafac_mlp_init
from ico.optim._averaging import (
    AveragingState,
    Coefficients,
    averaging,
    averaging_by,
    uniform_weight,
)
from ico.optim._base_optimizers import base_optimizers
from ico.optim._by_group import by_module, group_names
from ico.optim._direction_mlp import direction_mlp, direction_mlp_init
from ico.optim._eval_params import eval_params
from ico.optim._hand_designed import HAND_DESIGNED, HandDesigned, on_parts
from ico.optim._l3rs import L3RS, L3RSState
from ico.optim._per_parameter import PerParameterState
from ico.optim._registry import LearnedOptimizer, learned, make, names
from ico.optim._sparse import sparse_updates, sparsify, top_mask
from ico.optim._store import load, load_theta, save
from ico.optim._with_loss import Optimizer, with_loss

__all__ = [
    "AveragingState",
    "Coefficients",
    "HAND_DESIGNED",
    "HandDesigned",
    "L3RS",
    "L3RSState",
    "LearnedOptimizer",
    "Optimizer",
    "PerParameterState",
    "adafac_mlp",
    "adafac_mlp_init",
    "averaging",
    "averaging_by",
    "base_optimizers",
    "by_module",
    "direction_mlp",
    "direction_mlp_init",
    "eval_params",
    "group_names",
    "learned",
    "load",
    "load_theta",
    "make",
    "names",
    "on_parts",
    "save",
    "sparse_updates",
    "sparsify",
    "top_mask",
    "uniform_weight",
    "with_loss",
]
