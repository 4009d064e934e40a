"""In-context problems: pure samplers `sample(key, config) -> Episode`."""

from ico.tasks._dynamics import (
    Dynamics,
    Trajectories,
    constructed_tokens,
    dynamics,
    dynamics_features,
    dynamics_network,
)
from ico.tasks._fixed_set import fixed_task_set
from ico.tasks._linear_regression import LinearRegression, linear_regression
from ico.tasks._loss import half_squared_error, token_losses
from ico.tasks._noisy_regression import (
    NoisePrior,
    NoisyContext,
    NoisyEpisode,
    NoisyRegression,
    noisy_context,
    noisy_regression,
    spectral_context,
    wishart_spectra,
    with_label_noise,
)
from ico.tasks._pairs import Pairs, RotationPairs, pairs_in_a_row, rotation_pairs
from ico.tasks._recall import Recall, recall
from ico.tasks._repeated_query import RepeatedQuery, repeated_query
from ico.tasks._sine import Sine, sine, sine_through
from ico.tasks._tabular import Tabular, tabular

__all__ = [
    "Dynamics",
    "LinearRegression",
    "NoisePrior",
    "NoisyContext",
    "NoisyEpisode",
    "NoisyRegression",
    "Pairs",
    "Recall",
    "RepeatedQuery",
    "RotationPairs",
    "Sine",
    "Tabular",
    "Trajectories",
    "constructed_tokens",
    "dynamics",
    "dynamics_features",
    "dynamics_network",
    "fixed_task_set",
    "half_squared_error",
    "linear_regression",
    "noisy_context",
    "noisy_regression",
    "pairs_in_a_row",
    "recall",
    "repeated_query",
    "rotation_pairs",
    "sine",
    "sine_through",
    "spectral_context",
    "tabular",
    "token_losses",
    "wishart_spectra",
    "with_label_noise",
]
