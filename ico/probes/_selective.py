"""Selective prediction: which answers of a classifier to reject. NumPy, float64.

Source: "Selective Classification Via Neural Network Training Dynamics" (2205.13532). Its weight
form `(t / T)^k` and the best k are from a secondary reading: UNVERIFIED.

Dimension key: n checkpoints, the last is the model itself; N examples.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped


class RiskCoverage(NamedTuple):
    """Answers are accepted in the order of their scores, the least first.

    Fields:
      coverage: share accepted, [N]: 1 / N ... 1.
      risk: share of wrong answers among those accepted, [N].
    """

    coverage: Float[np.ndarray, "N"]
    risk: Float[np.ndarray, "N"]

    @property
    def area(self) -> float:
        """AURC: the mean risk over all coverages (Geifman and El-Yaniv 2017)."""
        return float(self.risk.mean())

    def at(self, coverage: int | float) -> float:
        """The risk at the smallest coverage that is at least this one."""
        return float(self.risk[int(np.searchsorted(self.coverage, coverage - 1e-12))])


def disagreement(
    predictions_nN: Num[Any, "n N"], k: int | float | None = 0.05
) -> Float[np.ndarray, "N"]:
    """How much, and how late in training, an example was classified otherwise than at the end.

    `sum_t (t / n)^k [f_t != f_n]` over checkpoints t = 1 ... n, divided by n.

    Args:
      predictions_nN: classes at each checkpoint; the last row is what the model answers.
      k: how much more late disagreement counts; None: the latest t / n at which they disagree.

    Raises:
      ValueError: fewer than two checkpoints, or a negative k.
    """
    predictions = np.asarray(predictions_nN)
    n = len(predictions)
    if n < 2 or (k is not None and k < 0):
        raise ValueError(f"want two checkpoints at least and k >= 0, not {n} and {k}")
    disagrees = predictions != predictions[-1]
    share = np.arange(1, n + 1)[:, None] / n
    if k is None:
        return np.max(disagrees * share, axis=0)
    return np.mean(disagrees * share**k, axis=0)


def risk_coverage(scores_N: Shaped[Any, "N"], wrong_N: Bool[Any, "N"]) -> RiskCoverage:
    """The risk of every coverage; examples of equal scores are accepted together, in the mean.

    Args:
      scores_N: large where the answer is doubted: `disagreement`, or minus a confidence.
      wrong_N: whether the answer is wrong.

    Raises:
      ValueError: no examples, or a score that is NaN.
    """
    scores, wrong = np.asarray(scores_N, float), np.asarray(wrong_N, float)
    if not len(scores) or np.isnan(scores).any():
        raise ValueError("want at least one example, and scores that are numbers")
    order = np.argsort(scores, kind="stable")
    _, group = np.unique(scores, return_inverse=True)
    # An example's error is the mean of its group: the expectation over the order of equal scores.
    mean = np.bincount(group, wrong) / np.bincount(group)
    count = np.arange(1, len(scores) + 1)
    return RiskCoverage(count / len(scores), np.cumsum(mean[group[order]]) / count)


def error_detection(scores_N: Shaped[Any, "N"], wrong_N: Bool[Any, "N"]) -> float:
    """AUROC: how probable it is that a wrong answer has a larger score than a right one.

    Equal scores count half. NaN where all answers are right, or all wrong.

    Raises:
      ValueError: a score that is NaN.
    """
    scores, wrong = np.asarray(scores_N, float), np.asarray(wrong_N, bool)
    if np.isnan(scores).any():
        raise ValueError("scores must be numbers")
    if wrong.all() or not wrong.any():
        return float("nan")
    values, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    del values
    rank = np.cumsum(counts) - (counts - 1) / 2  # the mean of equal ones, from 1
    positives = int(wrong.sum())
    least = positives * (positives + 1) / 2
    return float((rank[group][wrong].sum() - least) / (positives * (len(scores) - positives)))


def threshold_at(scores_N: Shaped[Any, "N"], coverage: int | float) -> float:
    """The largest score to accept so that at least this share of the examples is accepted.

    Raises:
      ValueError: no examples, or a coverage outside (0, 1].
    """
    scores = np.sort(np.asarray(scores_N, float))
    if not len(scores) or not 0 < coverage <= 1:
        raise ValueError(f"want examples and a coverage in (0, 1], not {coverage}")
    return float(scores[int(np.ceil(coverage * len(scores) - 1e-9)) - 1])


def recall_at(
    scores_N: Shaped[Any, "N"], marked_N: Bool[Any, "N"], false_alarms: int | float
) -> float:
    """The share of the marked examples (poisoned, mislabelled) that scores find.

    The threshold is the least at which at most `false_alarms` of the others lie above it.

    Raises:
      ValueError: a share outside [0, 1).
    """
    if not 0 <= false_alarms < 1:
        raise ValueError(f"false_alarms must be in [0, 1), not {false_alarms}")
    scores, marked = np.asarray(scores_N, float), np.asarray(marked_N, bool)
    if marked.all() or not marked.any():
        return float("nan")
    threshold = threshold_at(scores[~marked], 1 - false_alarms)
    return float(np.mean(scores[marked] > threshold))
