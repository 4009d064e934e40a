"""Real tables that ship with scikit-learn."""

import numpy as np
from jaxtyping import Float


def diabetes() -> Float[np.ndarray, "442 11"]:
    """The diabetes set (Efron et al. 2004): ten body measures and the disease's progress.

    Returns:
      [442, 11] float32, raw units, the label last.
    """
    from sklearn.datasets import load_diabetes  # dear to import

    inputs, labels = load_diabetes(return_X_y=True, scaled=False)
    return np.column_stack([inputs, labels]).astype(np.float32)
