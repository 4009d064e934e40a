"""Sequence layers in plain jax.numpy: no parameters, no Flax. Arrays are [B, T, H, D]."""

from ico.layers._linear_attention import linear_attention
from ico.layers._mesa import MesaState, mesa, mesa_decode, mesa_state
from ico.layers._softmax_attention import softmax_attention

__all__ = [
    "MesaState",
    "linear_attention",
    "mesa",
    "mesa_decode",
    "mesa_state",
    "softmax_attention",
]
