"""What a text that was learned does to other prompts.

S_mem and S_prime are those of Sun et al. 2025 (arXiv 2504.09522; S_mem's exact form UNVERIFIED);
the corrected score is ours: raw ratios rise on all prompts alike when a rare word becomes likelier
everywhere, so the rise on prompts of other themes is taken off.
"""

import numpy as np
from jaxtyping import Float, Int


def memory_score(log_before: float, log_after: float) -> float:
    """S_mem = P_after(x | X_c) / P_before(x | X_c), from log-probabilities."""
    return float(np.exp(log_after - log_before))


def priming_score(
    log_before_N: Float[np.ndarray, "N"], log_after_N: Float[np.ndarray, "N"]
) -> float:
    """S_prime = E_j[P_after(x | X_T,j) / P_before(x | X_T,j)] over N theme prompts."""
    return float(np.mean(np.exp(log_after_N - log_before_N)))


def log_priming(log_before_N: Float[np.ndarray, "N"], log_after_N: Float[np.ndarray, "N"]) -> float:
    """The mean over prompts of log(P_after / P_before): one prompt cannot carry it."""
    return float(np.mean(log_after_N - log_before_N))


def corrected_priming(theme_before_N, theme_after_N, cross_before_M, cross_after_M) -> float:
    """Difference in differences: log-priming on theme prompts less that on cross-theme prompts."""
    return log_priming(theme_before_N, theme_after_N) - log_priming(cross_before_M, cross_after_M)


def top_flips(
    top_before_N: Int[np.ndarray, "N"], top_after_N: Int[np.ndarray, "N"], token: int
) -> float:
    """Share of prompts whose likeliest next token became `token` (the keyword's first)."""
    return float(np.mean((top_after_N == token) & (top_before_N != token)))


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
    draw = np.random.default_rng(seed)
    theme_RN = draw.choice(theme_N, (resamples, len(theme_N)))
    cross_R = draw.choice(cross_M, (resamples, len(cross_M))).mean(1)
    found = {
        "priming_score": (np.exp(theme_N).mean(), np.exp(theme_RN).mean(1)),
        "log_priming": (theme_N.mean(), theme_RN.mean(1)),
        "corrected_priming": (theme_N.mean() - cross_M.mean(), theme_RN.mean(1) - cross_R),
    }
    ends = {name: np.percentile(draws, (2.5, 97.5)) for name, (_, draws) in found.items()}
    return {
        name: (float(value), (float(ends[name][0]), float(ends[name][1])))
        for name, (value, _) in found.items()
    }
