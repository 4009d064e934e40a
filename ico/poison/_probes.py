"""What learning a text does to other prompts.

S_mem and S_prime are those of Sun et al. 2025 (arXiv 2504.09522; S_mem's exact form UNVERIFIED).
The corrected score is ours: when a rare word becomes likelier everywhere, raw ratios rise on all
prompts alike, so the rise on prompts of other themes is subtracted.

Dimension key: N, P theme prompts, M, Q cross-theme prompts, C contexts.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

from ico.report import resampled_means


def memory_score(log_before: float, log_after: float) -> float:
    """S_mem = P_after(x | X_c) / P_before(x | X_c), from log-probabilities."""
    return float(np.exp(log_after - log_before))


def priming_score(
    log_before_N: Float[np.ndarray, "N"], log_after_N: Float[np.ndarray, "N"]
) -> float:
    """S_prime = E_j[P_after(x | X_T,j) / P_before(x | X_T,j)] over N theme prompts."""
    return float(np.mean(np.exp(log_after_N - log_before_N)))


def log_priming(log_before_N: Float[np.ndarray, "N"], log_after_N: Float[np.ndarray, "N"]) -> float:
    """The mean over prompts of log(P_after / P_before), which no single prompt can dominate."""
    return float(np.mean(log_after_N - log_before_N))


def corrected_priming(theme_before_N, theme_after_N, cross_before_M, cross_after_M) -> float:
    """Difference in differences: log-priming on theme prompts less that on cross-theme prompts."""
    return log_priming(theme_before_N, theme_after_N) - log_priming(cross_before_M, cross_after_M)


def top_flips(
    top_before_N: Int[np.ndarray, "N"], top_after_N: Int[np.ndarray, "N"], token: int
) -> float:
    """Share of prompts whose likeliest next token became `token` (the keyword's first)."""
    return float(np.mean((top_after_N == token) & (top_before_N != token)))


def effects(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], place: int = 0
) -> dict[str, float]:
    """What learning one fact did to its keyword, from two readings of a model.

    Args:
      before: log-probabilities of the keyword in nats: "memory" [C] after contexts of facts,
        "theme" [P] and "cross" [Q] after other prompts; "theme_top" [P], the likeliest next tokens;
        "clean" [], the loss on clean text.
      after: the same of the model that learned the fact, "memory" [1] with its context alone and
        "cross" perhaps with fewer prompts; and "first" [], the keyword's first token.
      place: of the fact among the contexts of `before`.

    Returns:
      In nats: `log_before`, `log_after`, `gain` of the keyword after its context; `log_s_prime`
      (log of `priming_score`), `theme`, `cross` (mean log ratios), `corrected` (their difference),
      `clean` (rise of the clean loss); and `flips`, as `top_flips`.
    """
    log_before, log_after = float(before["memory"][place]), float(after["memory"][0])
    theme = log_priming(before["theme"], after["theme"])
    cross = log_priming(before["cross"][: len(after["cross"])], after["cross"])
    # The log of the mean ratio, even where ratios would overflow.
    ratios = np.logaddexp.reduce(after["theme"] - before["theme"])
    return {
        "log_before": log_before,
        "log_after": log_after,
        "gain": log_after - log_before,
        "log_s_prime": float(ratios - np.log(len(before["theme"]))),
        "theme": theme,
        "cross": cross,
        "corrected": theme - cross,
        "flips": top_flips(before["theme_top"], after["theme_top"], int(after["first"])),
        "clean": float(after["clean"] - before["clean"]),
    }


def priming_intervals(
    theme_before_N: Float[np.ndarray, "N"],
    theme_after_N: Float[np.ndarray, "N"],
    cross_before_M: Float[np.ndarray, "M"],
    cross_after_M: Float[np.ndarray, "M"],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, tuple[float, float]]]:
    """Scores of one fact with 95% bootstrap intervals over its prompts.

    Returns:
      `priming_score` (a ratio), `log_priming` and `corrected_priming` (nats): (value, (low, high)).
      Theme and cross-theme prompts are drawn apart.

    Raises:
      ValueError: fewer than two prompts of either sort.
    """
    theme_N, cross_M = theme_after_N - theme_before_N, cross_after_M - cross_before_M
    if min(len(theme_N), len(cross_M)) < 2:
        raise ValueError("intervals need two theme prompts and two cross-theme prompts, at least")
    # Two bootstraps, since theme and cross-theme prompts are drawn independently.
    scores_NK = np.stack([np.exp(theme_N), theme_N], axis=-1)
    ratio_R, theme_R = resampled_means(scores_NK[None], resamples, seed).T
    cross_R = resampled_means(cross_M[None, :, None], resamples, seed + 1)[:, 0]
    found = {
        "priming_score": (np.exp(theme_N).mean(), ratio_R),
        "log_priming": (theme_N.mean(), theme_R),
        "corrected_priming": (theme_N.mean() - cross_M.mean(), theme_R - cross_R),
    }
    ends = {name: np.percentile(draws, (2.5, 97.5)) for name, (_, draws) in found.items()}
    return {
        name: (float(value), (float(ends[name][0]), float(ends[name][1])))
        for name, (value, _) in found.items()
    }
