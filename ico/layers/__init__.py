"""Sequence layers in plain jax.numpy: no parameters, no Flax. Arrays are [B, T, H, D]."""

from ico.layers._delta import delta_rule
from ico.layers._iterative import (
    ChebyshevSteps,
    chebyshev_queries,
    chebyshev_steps,
    neumann_steps,
    newton_inverse,
)
from ico.layers._linear_attention import linear_attention
from ico.layers._mesa import MesaState, mesa, mesa_decode, mesa_state
from ico.layers._mesa_all_keys import mesa_all_keys
from ico.layers._mesa_cg import MesaCgState, cap_forget, mesa_cg, mesa_cg_decode
from ico.layers._softmax_attention import softmax_attention
from ico.layers._toeplitz import toeplitz

__all__ = [
    "ChebyshevSteps",
    "MesaCgState",
    "MesaState",
    "cap_forget",
    "chebyshev_queries",
    "chebyshev_steps",
    "delta_rule",
    "linear_attention",
    "mesa",
    "mesa_all_keys",
    "mesa_cg",
    "mesa_cg_decode",
    "mesa_decode",
    "mesa_state",
    "neumann_steps",
    "newton_inverse",
    "softmax_attention",
    "toeplitz",
]
