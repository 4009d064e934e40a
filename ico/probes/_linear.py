"""Linear probes: what an affine map reads off a model's features. NumPy, float64.

Source: Alain and Bengio, 2016 (1610.01644).

Dimension key: N examples to fit on, M examples to test on, E features, K targets, L layers, B and C
sequences to fit and to test on, T positions, D width of a vector.
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


def lagged_probe_errors(
    tokens_BTE: Num[Any, "B T E"],
    x_BTD: Num[Any, "B T D"],
    test_tokens_CTE: Num[Any, "C T E"],
    test_x_CTD: Num[Any, "C T D"],
    *,
    num_lags: int,
    ridge: float = 0.0,
) -> tuple[Float[np.ndarray, "lags C"], Float[np.ndarray, "lags C"]]:
    """What of the past stands in a token: probes for the vector some positions before it.

    One probe a lag (0 is the present vector), the same at all positions from num_lags on.

    Args:
      tokens_BTE, x_BTD: tokens, and the vectors of their positions, to fit on.
      test_tokens_CTE, test_x_CTD: those to test on.
      num_lags: lags, from 0.
      ridge: see `fit_linear_probe`.

    Returns:
      Squared errors on the other sequences, and squares about the mean of those fitted on (errors
      of a probe that reads nothing), means over positions and coordinates.

    Raises:
      ValueError: no position that has that many before it.
    """
    T = x_BTD.shape[1]
    if T <= num_lags:
        raise ValueError(f"{num_lags} lags need more than that many positions, not {T}")

    def sides(tokens, x):
        tokens, x = (np.asarray(a, np.float64) for a in (tokens, x))
        late = [x[:, num_lags - lag : T - lag] for lag in range(num_lags)]
        return tokens[:, num_lags:], np.stack(late, axis=2)  # all lags are read at once

    (fitted, y_BTLD), (test, test_y_CTLD) = (
        sides(tokens_BTE, x_BTD),
        sides(test_tokens_CTE, test_x_CTD),
    )
    count = len(fitted) * fitted.shape[1]
    probe = fit_linear_probe(fitted.reshape(count, -1), y_BTLD.reshape(count, -1), ridge=ridge)
    read_CTLD = probe(test).reshape(test_y_CTLD.shape)
    mean_LD = y_BTLD.mean((0, 1))
    error, total = (np.square(test_y_CTLD - guess).mean((1, 3)).T for guess in (read_CTLD, mean_LD))
    return error, total
