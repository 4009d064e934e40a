"""Explicit learners (`apply(params, prompt) -> prediction`) and weights that perform them."""

from ico.algorithms import constructions
from ico.algorithms._adaptive_ridge import (
    adaptive_ridge,
    adaptive_ridge_weights,
    estimated_noise_variance,
    ridge_weights,
)
from ico.algorithms._best_rates import best_rates, expected_loss, gram_eigenvalues
from ico.algorithms._class_means import (
    class_means,
    logistic_regression,
    nearest_class_mean,
)
from ico.algorithms._diagonal import (
    DiagonalScalars,
    diagonal_heads,
    diagonal_scalars,
    diagonal_weights,
)
from ico.algorithms._gradient_descent import gd, gd_plus_plus
from ico.algorithms._grid_search import grid_search, refined_search
from ico.algorithms._implicit_model import (
    DescentReading,
    ImplicitModel,
    descent_reading,
    implicit_model,
    implicit_weights,
)
from ico.algorithms._layers_needed import layers_needed, log_uniform_spectrum
from ico.algorithms._newton import newton
from ico.algorithms._next_vector import (
    next_vector_gd,
    next_vector_ridge,
    preconditioned_inputs,
    tuned_next_vector_ridge,
)
from ico.algorithms._oracle_contexts import (
    OracleContexts,
    best_noise_variance,
    excess,
    linear_losses,
    sample_contexts,
    sample_spectral_contexts,
    with_oracle,
)
from ico.algorithms._ridge import ridge
from ico.algorithms._spectral_error import gd_plus_plus_error
from ico.algorithms._statistics import statistics

__all__ = [
    "DescentReading",
    "DiagonalScalars",
    "ImplicitModel",
    "OracleContexts",
    "adaptive_ridge",
    "adaptive_ridge_weights",
    "best_noise_variance",
    "best_rates",
    "class_means",
    "constructions",
    "descent_reading",
    "diagonal_heads",
    "diagonal_scalars",
    "diagonal_weights",
    "estimated_noise_variance",
    "excess",
    "expected_loss",
    "gd",
    "gd_plus_plus",
    "gd_plus_plus_error",
    "gram_eigenvalues",
    "grid_search",
    "implicit_model",
    "implicit_weights",
    "layers_needed",
    "linear_losses",
    "log_uniform_spectrum",
    "logistic_regression",
    "nearest_class_mean",
    "newton",
    "next_vector_gd",
    "next_vector_ridge",
    "preconditioned_inputs",
    "refined_search",
    "ridge",
    "ridge_weights",
    "sample_contexts",
    "sample_spectral_contexts",
    "statistics",
    "tuned_next_vector_ridge",
    "with_oracle",
]
