"""What a text that was learned does to other prompts.

S_mem and S_prime are those of Sun et al. 2025 (arXiv 2504.09522; S_mem's exact form UNVERIFIED);
the corrected score is ours: raw ratios rise on all prompts alike when a rare word becomes likelier
everywhere, so the rise on prompts of other themes is taken off.
"""

import numpy as np
from jaxtyping import Float


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
