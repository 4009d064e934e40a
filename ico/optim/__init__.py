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
from ico.optim._iterate_averages import (
    EMA,
    SWA,
    Average,
    TwoPoint,
    WindowState,
    averaged,
    equivalent_average,
    equivalent_schedule,
    gradient_shares,
    latest_averaging,
)
from ico.optim._l3rs import L3RS, L3RSState
from ico.optim._per_parameter import PerParameterState
from ico.optim._registry import LearnedOptimizer, learned, make, names
from ico.optim._sparse import sparse_updates, sparsify, top_mask
from ico.optim._store import load, load_theta, save
from ico.optim._subspace import (
    QuantisedRows,
    Span,
    SubspaceState,
    centred_span,
    orthonormal_span,
    quantise_rows,
    subspace,
)
from ico.optim._with_loss import Optimizer, with_loss

__all__ = [
    "Average",
    "AveragingState",
    "Coefficients",
    "EMA",
    "HAND_DESIGNED",
    "HandDesigned",
    "L3RS",
    "L3RSState",
    "LearnedOptimizer",
    "Optimizer",
    "PerParameterState",
    "QuantisedRows",
    "SWA",
    "Span",
    "SubspaceState",
    "TwoPoint",
    "WindowState",
    "adafac_mlp",
    "adafac_mlp_init",
    "averaged",
    "averaging",
    "averaging_by",
    "base_optimizers",
    "by_module",
    "centred_span",
    "direction_mlp",
    "direction_mlp_init",
    "equivalent_average",
    "equivalent_schedule",
    "eval_params",
    "gradient_shares",
    "group_names",
    "latest_averaging",
    "learned",
    "load",
    "load_theta",
    "make",
    "names",
    "on_parts",
    "orthonormal_span",
    "quantise_rows",
    "save",
    "sparse_updates",
    "sparsify",
    "subspace",
    "top_mask",
    "uniform_weight",
    "with_loss",
]
