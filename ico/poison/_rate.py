"""A learning rate at which a fact is learned, but not to certainty."""

from collections.abc import Callable


def searched_rate(learned: Callable[[float], float], start: float, count: int) -> float:
    """The rate with `learned(rate)`, a probability, nearest to 1/2, after `count` tries at most.

    From `start` by factors of three, up where too little is learned. A rate that is worse than the
    best one, such as one at which training diverges, was too far: then half the way back.
    """
    tried: dict[float, float] = {}
    rate = best = start
    for _ in range(count):
        tried[rate] = learned(rate)
        best = min(reversed(tried), key=lambda r: abs(tried[r] - 0.5))
        if abs(tried[best] - 0.5) < 0.3:
            break
        step = 3.0 if tried[best] < 0.5 else 1 / 3
        rate = best * (step if rate == best else (rate / best) ** 0.5)
        rate = float(f"{rate:.3g}")
        if rate in tried:
            break
    return best
