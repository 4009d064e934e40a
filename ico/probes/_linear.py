"""Linear probes: what an affine map reads off a model's features. NumPy, float64.

Source: Alain and Bengio, 2016 (1610.01644).

Dimension key: N examples to fit on, M examples to test on, E features, K targets, L layers.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Num


class LinearProbe(NamedTuple):
    """An affine map from features to targets; call it with features.

    Fields:
      weights: [E, K].
      constant: [K].
    """

    weights: Float[np.ndarray, "E K"]
    constant: Float[np.ndarray, "K"]

    def __call__(self, x: Num[Any, "*N E"]) -> Float[np.ndarray, "*N K"]:
        """What the probe reads, in float64."""
        return np.asarray(x, np.float64) @ self.weights + self.constant


def fit_linear_probe(
    x_NE: Num[Any, "N E"], y_NK: Num[Any, "N K"], *, ridge: float = 0.0
) -> LinearProbe:
    """`argmin_{W, c} sum_n |x_n W + c - y_n|^2 + lambda |W|^2`, the constant c not penalised.

    Args:
      x_NE: features.
      y_NK: targets.
      ridge: lambda as a share of the features' mean square, `sum_ne x_ne^2 / E`, so that it means
        the same whatever the features' unit. With 0 it is least squares, and of all best fits
        (features may be linearly dependent, or more than examples) that with the smallest |W|.

    Raises:
      ValueError: no examples, different numbers of them, or a negative ridge.
    """
    x, y = np.asarray(x_NE, np.float64), np.asarray(y_NK, np.float64)
    if len(x) != len(y) or not len(x):
        raise ValueError(
            f"want as many features as targets, at least one, not {x.shape}, {y.shape}"
        )
    if ridge < 0:
        raise ValueError(f"ridge must be at least 0, not {ridge}")
    x_mean, y_mean = x.mean(0), y.mean(0)
    rows, targets = x - x_mean, y - y_mean
    if ridge:
        # Least squares with E more examples, sqrt(lambda) e_i -> 0, is ridge regression.
        E = x.shape[1]
        scale = np.sqrt(ridge * np.sum(x**2) / E)
        rows = np.concatenate([rows, scale * np.eye(E)])
        targets = np.concatenate([targets, np.zeros((E, y.shape[1]))])
    weights = np.linalg.lstsq(rows, targets, rcond=None)[0]
    return LinearProbe(weights, y_mean - x_mean @ weights)


def layerwise_probe_errors(
    x_LNE: Num[Any, "L N E"],
    y_NK: Num[Any, "N K"],
    test_x_LME: Num[Any, "L M E"],
    test_y_MK: Num[Any, "M K"],
    *,
    ridge: float = 0.0,
) -> Float[np.ndarray, "L M"]:
    """Squared errors on other examples of one probe a layer, `|x W + c - y|^2` summed over targets.

    Args:
      x_LNE, y_NK: features of every layer, and targets, to fit on.
      test_x_LME, test_y_MK: those to test on.
      ridge: see `fit_linear_probe`.

    Raises:
      ValueError: as `fit_linear_probe`.
    """
    y = np.asarray(test_y_MK, np.float64)
    probes = [fit_linear_probe(x_NE, y_NK, ridge=ridge) for x_NE in x_LNE]
    read = [probe(x_ME) for probe, x_ME in zip(probes, test_x_LME, strict=True)]
    return np.stack([np.sum((prediction - y) ** 2, axis=-1) for prediction in read])
