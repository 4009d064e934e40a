"""Thin Flax Linen modules over `ico.layers`: they name parameters and nothing else."""

from ico.models._alternating import AlternatingTransformer
from ico.models._in_context_regression import (
    DiagonalLinearTransformer,
    FreeDiagonalLinearTransformer,
    FullLinearTransformer,
    GdPlusPlusLinearTransformer,
    stacked_products,
)
from ico.models._interpolation import interpolate, normalise, products, scale_updates
from ico.models._learner import learner
from ico.models._linear_transformer import LinearTransformer

__all__ = [
    "AlternatingTransformer",
    "DiagonalLinearTransformer",
    "FreeDiagonalLinearTransformer",
    "FullLinearTransformer",
    "GdPlusPlusLinearTransformer",
    "LinearTransformer",
    "interpolate",
    "learner",
    "normalise",
    "products",
    "scale_updates",
    "stacked_products",
]
