"""Least squares whose intervals are over tasks.

Dimension key: T tasks, D coordinates of a task, C columns.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from ico.report._statistics import interval_of


class Regression(NamedTuple):
    """A regression over tasks and their coordinates, held as moments of each task.

    They are all that a bootstrap over tasks needs. There is no intercept.
    """

    xx: Float[np.ndarray, "T C C"]
    xy: Float[np.ndarray, "T C"]
    yy: Float[np.ndarray, "T"]

    @classmethod
    def of(
        cls, y: Float[np.ndarray, "T D"], columns: Sequence[Float[np.ndarray, "T D"]]
    ) -> "Regression":
        """That of y on some columns."""
        x_TDC = np.stack(columns, axis=-1)
        xx = np.einsum("tdc,tde->tce", x_TDC, x_TDC)
        return cls(xx, np.einsum("tdc,td->tc", x_TDC, y), np.sum(y**2, axis=1))

    @property
    def coefficients(self) -> Float[np.ndarray, "C"]:
        """Those of least squares, the smallest where several do: equal columns share alike."""
        return np.linalg.pinv(self.xx.mean(0), rcond=1e-10, hermitian=True) @ self.xy.mean(0)

    @property
    def r_squared(self) -> float:
        """The share of mean y^2 that is explained; not a number if y is zero."""
        explained, total = self.coefficients @ self.xy.mean(0), self.yy.mean()
        return float(explained / total) if total > 0 else float("nan")

    def leading(self, columns: int) -> "Regression":
        """That on the first columns alone."""
        return Regression(self.xx[:, :columns, :columns], self.xy[:, :columns], self.yy)

    def interval(
        self, statistic: Callable[["Regression"], float], resamples: int = 500
    ) -> tuple[float, tuple[float, float]]:
        """A statistic, such as one coefficient, with its 95% interval over tasks."""

        def of_draw(*moments):
            return float(statistic(Regression(*moments)))

        return interval_of(of_draw, *self, resamples=resamples)
