"""Bootstrap intervals over evaluation tasks and seeds. NumPy, float64, deterministic in the seed.

Dimension key: S seeds, T tasks, K quantities, R resamples, C resamples in one chunk.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

_BLOCKS = 4096
_CHUNK = 1 << 19  # weights held at once: 4 MB as float64


def interval(
    *samples: Shaped[Any, "..."],
    statistic: Callable[..., float] | None = None,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, tuple[float, float]]:
    """A statistic of grand means, with its 95% percentile interval by paired bootstrap.

    Seeds and tasks are resampled independently (crossed), and one draw serves all arrays
    (paired), so what the arrays share cancels in a difference or a ratio. The interval of a
    model chosen as best of several seeds must not resample seeds: give its [T] row.

    Tasks are many and are drawn with replacement. Seeds are few: the percentiles of three seeds
    drawn so would end at the least and the largest of them, and hold the truth in three cases of
    four. Their deviations get normal weights instead, widened to Student's t with S - 1 degrees of
    freedom, so that where seeds are all the noise the interval is the t interval of their mean.

    Beyond 4096 tasks, blocks of consecutive ones are drawn: the mean varies the same, and
    a hundred thousand tasks would take seconds.

    Args:
      *samples: each [S, T] (row s: seed s; the same tasks in every row and every array), or [T]
        or [1, T] for a learner without seeds, which is broadcast.
      statistic: maps the resampled grand means, one float an array, to a float; by default the
        first mean. `lambda a, b: a / b`, `lambda a, b, c: min(b - a, c - b)`.
      resamples: bootstrap draws.
      seed: of the draws. The same seed and shapes give the same interval.
      level: of the interval, where several must hold at once.

    Returns:
      (value on the full sample, (low, high)). Not finite if the samples are not, or for a
      single seed with a single task.

    Raises:
      ValueError: no samples, wrong rank, or shapes that do not agree.
    """
    values_STK = np.stack(_aligned(samples), axis=-1)
    statistic = statistic or (lambda first, *rest: first)
    value = float(statistic(*values_STK.mean((0, 1)).tolist()))
    if values_STK.shape[:2] == (1, 1):
        return value, (float("nan"), float("nan"))  # one number says nothing of its spread
    means_RK = resampled_means(_in_blocks(values_STK), resamples, seed, level)
    draws_R = np.array([float(statistic(*means)) for means in means_RK.tolist()])
    return value, _percentiles(draws_R, level)


def interval_of(
    statistic: Callable[..., float],
    *arrays: Shaped[Any, "..."],
    resamples: int = 2000,
    seed: int = 0,
) -> tuple[float, tuple[float, float]]:
    """95% percentile interval of any statistic of rows, by paired bootstrap over axis 0.

    For what is no function of means: rank correlations, slopes, quantiles.

    Args:
      statistic: maps the resampled arrays to a float.
      *arrays: each [N, ...], rows paired between arrays.
      resamples: bootstrap draws.
      seed: of the draws.

    Returns:
      (value on the full sample, (low, high)). Draws where the statistic is undefined (NaN: a
      slope through N equal points) are left out up to one in twenty; beyond, the ends are NaN.

    Raises:
      ValueError: no arrays, no rows, or different numbers of rows.
    """
    arrays = tuple(np.asarray(array) for array in arrays)
    if not arrays or any(array.ndim == 0 for array in arrays):
        raise ValueError("interval_of: want arrays with at least one axis")
    rows = {len(array) for array in arrays}
    if len(rows) != 1 or rows == {0}:
        raise ValueError(f"interval_of: want the same rows in every array, not {sorted(rows)}")
    n = rows.pop()
    rng = np.random.default_rng(seed)
    value = float(statistic(*arrays))
    draws_R = np.empty(resamples)
    for r in range(resamples):
        chosen = rng.integers(0, n, n)
        draws_R[r] = statistic(*(array[chosen] for array in arrays))
    undefined = np.isnan(draws_R)
    if np.isfinite(value) and undefined.mean() <= 0.05:
        draws_R = draws_R[~undefined]
    return value, _percentiles(draws_R)


def resampled_means(
    values_STK: Float[np.ndarray, "S T K"],
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Float[np.ndarray, "R K"]:
    """Grand means over seeds and tasks under the crossed bootstrap, K quantities at once.

    `level` is that of the interval they are for, where seeds' deviations are Student's t.

    A draw is a vector of weights, so a chunk of draws is one matrix product,
    [C,T] @ [T,S*K], and a weighted sum over S: no gathered copy of the data is made.
    """
    S, T, K = values_STK.shape
    # Two streams: the draws do not depend on the size of a chunk.
    task_rng, seed_rng = np.random.default_rng(seed).spawn(2)
    values_TX = np.ascontiguousarray(np.moveaxis(values_STK, 1, 0), dtype=float).reshape(T, S * K)
    means_RK = np.empty((resamples, K))
    chunk = max(1, _CHUNK // T)
    # Not-finite samples make not-finite means (0 * inf); the caller sees them, so no warning.
    with np.errstate(invalid="ignore", over="ignore"):
        for start in range(0, resamples, chunk):
            C = min(chunk, resamples - start)
            means_CSK = (_weights(task_rng, C, T, T) @ values_TX).reshape(C, S, K)
            seed_weights_CS = _seed_weights(seed_rng, C, S, level)
            means_RK[start : start + C] = np.einsum("cs,csk->ck", seed_weights_CS, means_CSK)
    return means_RK


def mean_band(
    values: Shaped[Any, "..."], resamples: int = 1000, seed: int = 0
) -> tuple[Float[np.ndarray, "X"], Float[np.ndarray, "X"], Float[np.ndarray, "X"]]:
    """Mean and 95% interval at every x, of values [S, T, X], or [S, X] (seeds alone)."""
    values = np.asarray(values, dtype=float)
    if values.ndim not in (2, 3):
        raise ValueError(f"mean_band: want [S, T, X] or [S, X], not shape {values.shape}")
    values_STX = values if values.ndim == 3 else values[:, None]
    means_RX = resampled_means(values_STX, resamples, seed)
    with np.errstate(invalid="ignore"):
        low_X, high_X = np.percentile(means_RX, (2.5, 97.5), axis=0)
    return values_STX.mean((0, 1)), low_X, high_X


def median(values: Shaped[Any, "T"]) -> float:
    """The median; what is not a number counts as infinite."""
    return float(np.median(np.nan_to_num(values, nan=np.inf, posinf=np.inf, neginf=-np.inf)))


def spearman(x: Shaped[Any, "..."], y: Shaped[Any, "..."]) -> float:
    """Spearman's rank correlation over all entries; NaN where one of the two does not vary."""
    from scipy.stats import spearmanr  # slow to import

    x, y = np.ravel(x), np.ravel(y)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def gaps(a: Shaped[Any, "T"], b: Shaped[Any, "T"]) -> Float[np.ndarray, "T"]:
    """Differences of losses. One that overflowed is infinitely worse, and as bad as another."""
    a, b = (np.where(np.isfinite(losses), losses, np.inf) for losses in (a, b))
    both = np.isinf(a) & np.isinf(b)
    return np.where(both, 0.0, np.where(both, 0.0, a) - np.where(both, 0.0, b))


def _in_blocks(values_STK: np.ndarray) -> np.ndarray:
    """At most 4096 tasks: means of blocks of nearly equal size, whose own mean is the whole's."""
    T = values_STK.shape[1]
    if T <= _BLOCKS:
        return values_STK
    edges = np.linspace(0, T, _BLOCKS + 1).astype(int)
    return np.add.reduceat(values_STK, edges[:-1], axis=1) * (_BLOCKS / T)


def _weights(rng, rows: int, n: int, draws: int) -> np.ndarray:
    """Share of each of n in `draws` draws with replacement, [rows, n]; ones if n is 1."""
    if n == 1:
        return np.ones((rows, 1))
    chosen = rng.integers(0, n, (rows, draws)) + n * np.arange(rows)[:, None]
    return np.bincount(chosen.ravel(), minlength=rows * n).reshape(rows, n) / draws


def _seed_weights(rng, rows: int, n: int, level: float) -> np.ndarray:
    """Weights [rows, n] that sum to one, under which a mean of n seeds varies as Student's t."""
    if n == 1:
        return np.ones((rows, 1))
    from scipy.special import ndtri, stdtrit  # dear to import, and needed for few seeds only

    normal = rng.standard_normal((rows, n))
    deviation = (normal - normal.mean(axis=1, keepdims=True)) / np.sqrt(n * (n - 1))
    end = (1 + level) / 2
    return 1 / n + stdtrit(n - 1, end) / ndtri(end) * deviation


def _aligned(samples) -> list[np.ndarray]:
    """All samples as float64 [S, T], or one ValueError that names the shapes."""
    arrays = [np.atleast_2d(np.asarray(sample, dtype=float)) for sample in samples]
    shapes = [np.shape(sample) for sample in samples]
    if not arrays or any(len(shape) not in (1, 2) or 0 in shape for shape in shapes):
        raise ValueError(f"interval: want samples [S, T] or [T], not shapes {shapes}")
    S = max(len(array) for array in arrays)
    T = arrays[0].shape[1]
    if any(array.shape not in ((S, T), (1, T)) for array in arrays):
        raise ValueError(f"interval: want the same seeds and tasks in every array, not {shapes}")
    return [np.broadcast_to(array, (S, T)) for array in arrays]


def _percentiles(draws_R, level: float = 0.95) -> tuple[float, float]:
    with np.errstate(invalid="ignore"):
        low, high = np.percentile(draws_R, (50 * (1 - level), 50 * (1 + level)))
    return float(low), float(high)
