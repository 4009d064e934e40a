"""The search for a learning rate at which a fact is learned."""

from ico.poison import searched_rate


def test_the_rate_that_is_searched_learns_and_does_not_diverge():
    def learned(rate):
        return 0.0 if rate > 0.08 else min(0.9, (rate / 0.06) ** 3)  # diverges beyond

    assert 0.03 <= searched_rate(learned, 0.03, 4) <= 0.08
    assert searched_rate(lambda rate: min(1.0, rate), 0.05, 6) == 0.45
    assert searched_rate(lambda rate: min(1.0, rate / 0.01), 0.05, 6) < 0.01
