"""How many layers of GD++ bring the error below a tolerance, scalars fitted to a spectrum.

Dimension key: L layers, V eigenvalues.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from ico.algorithms._spectral_error import gd_plus_plus_error


def log_uniform_spectrum(kappa: float, size: int, seed: Any) -> Float[np.ndarray, "V"]:
    """Eigenvalues log-uniform between 1 / kappa and 1, both ends among them.

    Args:
      kappa: the condition number.
      size: V, at least 2.
      seed: as `numpy.random.default_rng` takes it.
    """
    inner = np.exp(-np.log(kappa) * np.random.default_rng(seed).uniform(size=size - 2))
    return np.concatenate([[1.0], inner, [1 / kappa]])


def layers_needed(
    spectrum: Float[np.ndarray, "V"],
    seed: int,
    *,
    curvature: bool = True,
    tolerance: float = 1e-4,
    most: int = 30,
    starts: int = 3,
    beam: int = 4,
) -> float:
    """The fewest layers of GD++ below the tolerance, interpolated in log error; inf if too many.

    A minimum over scalars, found as far as a search by L-BFGS finds it: the best models of a depth
    are each continued by one more layer, from several starts. (With one of them alone a chain of
    layers may be led into a poor minimum.)

    Args:
      spectrum: eigenvalues.
      seed: of the starts.
      curvature: whether w_xx is fitted too; without it this is gradient descent.
      tolerance: of the mean squared error over eigenvalues, relative to no step at all.
      most: layers that are tried.
      starts: of each further layer.
      beam: models of a depth that are continued.
    """
    rng = np.random.default_rng(seed)
    models, before = [np.zeros((0, 2))], 0.0
    for depth in range(1, most + 1):
        found = [
            _fit(spectrum, model, rng, start, curvature)
            for model in models
            for start in range(starts)
        ]
        found = sorted(found, key=lambda pair: pair[0])[:beam]
        error, models = found[0][0], [model for _, model in found]
        if error <= np.log(tolerance):
            return depth - (np.log(tolerance) - error) / max(before - error, 1e-12)
        before = error
    return float("inf")


def _fit(spectrum, previous, rng, start: int, curvature: bool):
    """The log error and the scalars [L, 2] (w_xx, w_yx) of a model with one layer more."""
    import scipy.optimize  # slow to import

    # Behind the layers found, the next one acts on what they left.
    more = np.array([[-0.5 * curvature, -1.0]]) * np.exp(
        0.5 * rng.normal(size=(1, 2)) * (start > 0)
    )
    x = np.concatenate([previous, more / _largest(spectrum, previous)])

    def error(flat):
        value, gradient = gd_plus_plus_error(flat.reshape(-1, 2), spectrum)
        return value, np.where([curvature, True], gradient, 0).ravel()

    # The line search tries steps so long that they overflow, and turns back by itself.
    with np.errstate(over="ignore", invalid="ignore"):
        best = scipy.optimize.minimize(
            error, x.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300}
        )
    return float(best.fun), best.x.reshape(-1, 2)


def _largest(spectrum, scalars) -> float:
    values = spectrum
    for w_xx, _ in scalars:
        values = values * (1 + w_xx * values) ** 2
    return float(values.max())
