"""Scores of facts, and claims on them. Intervals are over keywords: facts of one are not alike.

Means over keywords have Student's t interval. Keywords of a theme share their prompts, so they are
not wholly independent either; four themes are too few to be the unit.

Dimension key: K keywords, F facts of a keyword, P prompts.
"""

import numpy as np
from scipy.stats import spearmanr

from ico.poison import log_priming, top_flips
from ico.report import Measurement, interval, interval_of, unjudged

LEAST = 6  # keywords without which the percentiles of a median mean nothing


def scores(before: dict, after: dict, place: int = 0) -> dict[str, float]:
    """What learning did to one fact's keyword, from two readings (see `Bench.read`).

    Args:
      before: of the untouched model, with the contexts of all facts of the keyword.
      after: of the model that learned the fact, with its context alone.
      place: of the fact among the contexts of `before`.

    Returns:
      In nats: `log_before`, `log_after`, `gain` of the keyword after its context; `log_s_prime`
      (log of the published mean ratio), `theme`, `cross` (mean log ratios), `corrected`; and
      `flips`, the share of theme prompts whose likeliest next token became the keyword's first.
    """
    log_before, log_after = float(before["memory"][place]), float(after["memory"][0])
    theme = log_priming(before["theme"], after["theme"])
    cross = log_priming(before["cross"][: len(after["cross"])], after["cross"])
    return {
        "log_before": log_before,
        "log_after": log_after,
        "gain": log_after - log_before,
        "log_s_prime": _log_mean_ratio(before["theme"], after["theme"]),
        "theme": theme,
        "cross": cross,
        "corrected": theme - cross,
        "flips": top_flips(before["theme_top"], after["theme_top"], int(after["first"])),
        "clean": float(after["clean"] - before["clean"]),
    }


def _log_mean_ratio(before_P, after_P) -> float:
    """log of `ico.poison.priming_score`, though all probabilities be below what numbers hold."""
    return float(np.logaddexp.reduce(after_P - before_P) - np.log(len(before_P)))


def columns(rows_KF: list[list[dict[str, float]]]) -> dict[str, np.ndarray]:
    """Scores of every fact of every keyword as arrays [K, F]."""
    names = rows_KF[0][0]
    return {name: np.array([[row[name] for row in rows] for rows in rows_KF]) for name in names}


def spearman(x_KF, y_KF) -> float:
    """Rank correlation over all facts; NaN where one of the two does not vary."""
    x, y = np.ravel(x_KF), np.ravel(y_KF)
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(spearmanr(x, y).statistic)


def correlation(claim: str, x_KF, y_KF, note: str = "") -> Measurement:
    """A rank correlation with its interval over keywords."""
    value, ci95 = interval_of(spearman, x_KF, y_KF)
    return Measurement(claim, value, ci95, 0, x_KF.size, note)


def mean(claim: str, values, note: str = "") -> Measurement:
    """A mean over keywords [K], or worlds and their facts [S, F], with its interval.

    Undefined keywords are left out; of worlds, whose few are seeds, the facts undefined in one.
    """
    values = _defined(values)
    if values.shape[1] == 0 or len(values) < 2:
        return unjudged(claim, note or "fewer than two facts for which it is defined")
    value, ci95 = interval(values)
    # Keywords are no seeds: one model, taught otherwise.
    worlds = len(values) if values.shape[1] > 1 else 0
    return Measurement(claim, value, ci95, worlds, values.size, note)


def _defined(values) -> np.ndarray:
    """Values of keywords as [K, 1], of worlds [S, F], without what is undefined in any."""
    values = np.asarray(values, dtype=float)
    if values.ndim == 1:
        return values[np.isfinite(values)][:, None]
    return values[:, np.isfinite(values).all(0)]


def median(claim: str, values_K, note: str = "") -> Measurement:
    """A median over keywords with its interval."""
    values = np.asarray(values_K, dtype=float)
    values = values[np.isfinite(values)]
    if values.size < LEAST:
        return unjudged(claim, note or f"fewer than {LEAST} facts for which it is defined")
    value, ci95 = interval_of(lambda v: float(np.median(v)), values)
    return Measurement(claim, value, ci95, 0, values.size, note)


def spread(values) -> str:
    """A mean and its interval, for tables."""
    values = _defined(values)
    if values.size < 2:
        return "-" if not values.size else f"{values[0, 0]:.3g}"
    value, (low, high) = interval(values)
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"
