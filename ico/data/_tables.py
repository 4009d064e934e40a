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


def breast_cancer() -> Float[np.ndarray, "569 30"]:
    """The Wisconsin breast cancer set (Street et al. 1993): thirty measures of cell nuclei.

    Returns:
      [569, 30] float32, raw units, without the diagnosis.
    """
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)[0].astype(np.float32)


def wine() -> Float[np.ndarray, "178 13"]:
    """The wine set (Aeberhard and Forina 1992): thirteen chemical measures.

    Returns:
      [178, 13] float32, raw units, without the cultivar.
    """
    from sklearn.datasets import load_wine

    return load_wine(return_X_y=True)[0].astype(np.float32)


def digits() -> Float[np.ndarray, "1797 C"]:
    """The digits set (Alpaydin and Kaynak 1998): 8 x 8 pixels, those that are nearly never ink out.

    Returns:
      [1797, C] float32, 0 to 16, the C pixels with some ink in at least a tenth of the images.
    """
    from sklearn.datasets import load_digits

    pixels = load_digits(return_X_y=True)[0].astype(np.float32)
    return pixels[:, (pixels > 0).mean(0) >= 0.1]
