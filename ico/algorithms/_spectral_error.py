"""GD++ on noise-free regression, one eigenvector of sum x x^T at a time.

Dimension key: L layers, V eigenvalues.
"""

import numpy as np
from jaxtyping import Float


def gd_plus_plus_error(
    scalars: Float[np.ndarray, "L 2"], spectrum: Float[np.ndarray, "V"]
) -> tuple[float, Float[np.ndarray, "L 2"]]:
    """Logarithm of the mean squared error left after L layers, with its gradient, in float64.

    In an eigenvector with eigenvalue v, GD++ keeps the eigenvalue of its own tokens and an error e
    of the weights, from 1 (2402.14180, section 5):

        e <- e (1 + w_yx v),    v <- v (1 + w_xx v)^2

    Args:
      scalars: w_xx and w_yx of every layer; gradient descent is w_xx = 0.
      spectrum: eigenvalues, all weighing alike.

    Returns:
      (log mean e^2, gradient over the scalars).
    """
    values, error, tape = spectrum, np.ones_like(spectrum), []
    for w_xx, w_yx in scalars:
        tape.append((values, error))
        error, values = error * (1 + w_yx * values), values * (1 + w_xx * values) ** 2
    mean = np.mean(error**2) + 1e-300
    d_error, d_values = 2 * error / (len(error) * mean), np.zeros_like(spectrum)
    gradient = np.zeros_like(scalars)
    for layer in reversed(range(len(scalars))):
        (values, error), (w_xx, w_yx) = tape[layer], scalars[layer]
        grow = 1 + w_xx * values
        gradient[layer] = np.sum(d_values * 2 * grow * values**2), np.sum(d_error * error * values)
        d_error, d_values = (
            d_error * (1 + w_yx * values),
            d_error * error * w_yx + d_values * grow * (grow + 2 * w_xx * values),
        )
    return float(np.log(mean)), gradient
