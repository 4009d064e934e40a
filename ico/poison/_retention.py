r"""How long what was injected stays: the retention metrics of Chang et al. 2024 (arXiv 2406.11813).

With l(t) the log-probability of a fact's keyword, in nats, l_inj that just before the injection
and l_peak the maximum in a window after it:

    effectivity E = l_peak - l_inj,    retainability R(t) = (l(t) - l_inj) / E,

    R(t) = a - \alpha \log_{10} t    fitted by least squares; alpha is the decay rate.

The caller chooses where the steps t >= 1 are counted from; the authors' code counts from the peak
(kaistAI/factual-knowledge-acquisition, analysis/ppl_analysis.py).

Dimension key: F facts, T times, S bootstrap samples.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from ico.report import resampled_means

LEAST_EFFECTIVITY = 1.0  # nats; below it R would divide noise by noise


class Peak(NamedTuple):
    """The best memory of each fact in the window after its injection."""

    index: Int[np.ndarray, "F"]  # t_peak, among the times
    log_prob: Float[np.ndarray, "F"]  # l_peak


class Decay(NamedTuple):
    """R = intercept - alpha log10 t, and the share of variance that the line explains."""

    alpha: float
    intercept: float
    r_squared: float


class Interval(NamedTuple):
    """An estimate with its 95% bootstrap interval."""

    estimate: float
    low: float
    high: float


class Retention(NamedTuple):
    """What `bootstrap_retention` measures; a half-life is in steps and may be inf."""

    alpha: Interval
    half_life: Interval
    retainability: Interval


def find_peak(
    log_probs: Float[np.ndarray, "F T"], steps: Int[np.ndarray, "T"], window: int
) -> Peak:
    """The maximum of l(t) over the times with step <= window, the first if there are several.

    Raises:
      ValueError: no time is in the window.
    """
    inside = np.flatnonzero(steps <= window)
    if not len(inside):
        raise ValueError(f"no step is within the window of {window}; the first is {steps.min()}")
    index = inside[np.argmax(log_probs[:, inside], axis=1)]
    return Peak(index, log_probs[np.arange(len(log_probs)), index])


def effectivity(
    l_inj: Float[np.ndarray, "*F"], l_peak: Float[np.ndarray, "*F"]
) -> Float[np.ndarray, "*F"]:
    """E = l_peak - l_inj: how much the injection taught, in nats."""
    return l_peak - l_inj


def retainability(
    l_t: Float[np.ndarray, "*F T"],
    l_inj: Float[np.ndarray, "*F"],
    l_peak: Float[np.ndarray, "*F"],
) -> Float[np.ndarray, "*F T"]:
    """R(t): 1 at the peak, 0 where all that was gained is lost; nan unless E > 1 nat.

    Leading axes are any, such as worlds and their facts.
    """
    gained = effectivity(l_inj, l_peak)[..., None]
    with np.errstate(divide="ignore", invalid="ignore"):
        retained = (l_t - l_inj[..., None]) / gained
    return np.where(gained > LEAST_EFFECTIVITY, retained, np.nan)


def without_outliers(
    retained: Float[np.ndarray, "F T"], factor: float = 2.0
) -> Float[np.ndarray, "F T"]:
    """The authors' filter: nan for a value more than `factor` IQR outside its time's quartiles."""
    low_T, high_T = np.nanpercentile(retained, [25, 75], axis=0)
    margin_T = factor * (high_T - low_T)
    inside = (retained >= (low_T - margin_T)[None]) & (retained <= (high_T + margin_T)[None])
    return np.where(inside, retained, np.nan)


def decay_rate(steps: Int[np.ndarray, "T"], retained: Float[np.ndarray, "T"]) -> Decay:
    """The line through one curve of R (of a fact, or a mean over facts) against log10 of steps.

    Raises:
      ValueError: a step below 1, or fewer than two different steps.
    """
    slope, intercept = _lines(steps, retained[None])
    x_T = np.log10(steps)
    residual = np.sum((retained - intercept[0] - slope[0] * x_T) ** 2)
    total = np.sum((retained - retained.mean()) ** 2)
    r_squared = 1 - residual / total if total > 0 else float(np.isclose(residual, 0))
    return Decay(float(-slope[0]), float(intercept[0]), float(r_squared))


def half_life(steps: Int[np.ndarray, "T"], retained: Float[np.ndarray, "T"]) -> float:
    """The step where the line of `decay_rate` crosses R = 1/2.

    A line that does not fall gives 0 if it starts below 1/2 (the fact was lost at once), else inf.
    """
    slope, intercept = _lines(steps, retained[None])
    return float(_half_lives(slope, intercept)[0])


def _lines(steps, retained_ST):
    """Slopes and intercepts [S] of the least-squares lines of R on log10 of steps."""
    if steps.min() < 1 or len(np.unique(steps)) < 2:
        raise ValueError("steps must be at least 1, and two of them different, for a line in log t")
    x_T = np.log10(steps)
    centred_T = x_T - x_T.mean()
    slope_S = retained_ST @ centred_T / (centred_T @ centred_T)
    return slope_S, retained_ST.mean(axis=1) - slope_S * x_T.mean()


def _half_lives(slope_S, intercept_S):
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        steps_S = 10 ** ((0.5 - intercept_S) / slope_S)
    return np.where(slope_S < 0, steps_S, np.where(intercept_S < 0.5, 0.0, np.inf))


def bootstrap_retention(
    steps: Int[np.ndarray, "T"],
    retained: Float[np.ndarray, "F T"],
    at_step: int,
    *,
    outlier_factor: float | None = None,
    num_samples: int = 2000,
    seed: int = 0,
) -> Retention:
    """Decay rate, half-life and R at a step, of the mean over facts, with 95% intervals.

    Facts are drawn with replacement, and the line is fitted to the mean curve of each draw. Facts
    that are nan throughout (E <= 1 nat) are left out first.

    The draws are those of `ico.report`; percentiles are taken here, since half-lives may be
    infinite, between which `ico.report.interval` would interpolate to nan.

    Args:
      steps: t >= 1.
      retained: R(t) of `retainability`.
      at_step: one of `steps`.
      outlier_factor: of `without_outliers`; None, the default, leaves all values in.
      num_samples: S.
      seed: of the draws.

    Raises:
      ValueError: `at_step` is no step, or fewer than two facts are defined.
    """
    where = np.flatnonzero(steps == at_step)
    if len(where) != 1:
        raise ValueError(f"at_step {at_step} must be one of the steps, {steps.tolist()}")
    kept_FT = retained[~np.isnan(retained).all(axis=1)]
    F = len(kept_FT)
    if F < 2:
        raise ValueError(f"{F} facts have a retainability (E > 1 nat); 2 are needed")
    if outlier_factor is not None:
        kept_FT = without_outliers(kept_FT, outlier_factor)
    curves_ST = _mean_curves(kept_FT, ~np.isnan(kept_FT), num_samples, seed)
    slope_S, intercept_S = _lines(steps, curves_ST)
    return Retention(
        _interval(-slope_S),
        _interval(_half_lives(slope_S, intercept_S)),
        _interval(curves_ST[:, where[0]]),
    )


def _mean_curves(
    values_FT: Float[np.ndarray, "F T"], known_FT: Bool[np.ndarray, "F T"], num_samples: int, seed
) -> Float[np.ndarray, "D T"]:
    """The mean curve over facts, then draws of it; where a draw knows nothing, the mean's value."""
    both_FX = np.concatenate([np.where(known_FT, values_FT, 0.0), known_FT], axis=1)
    draws_SX = resampled_means(both_FX[None], num_samples, seed)
    totals_ST, shares_ST = np.split(np.concatenate([both_FX.mean(0)[None], draws_SX]), 2, axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        means_ST = totals_ST / shares_ST
    return np.where(shares_ST > 0, means_ST, means_ST[:1])


def _interval(values_S) -> Interval:
    """The first is the estimate. Without interpolation, which makes nan of two infinities."""
    low, high = np.percentile(values_S[1:], [2.5, 97.5], method="inverted_cdf")
    return Interval(float(values_S[0]), float(low), float(high))


def reading_steps(num_steps: int) -> Int[np.ndarray, " R"]:
    """Steps at which memory is read: 1, 2, 3, 6, 10, 20, 30 ..., every thousand, and the last."""
    grid = {round(lead * 10**power) for power in range(6) for lead in (1, 2, 3, 6)}
    grid |= set(range(1_000, num_steps, 1_000))
    return np.array(sorted({step for step in grid if step < num_steps} | {num_steps}))
