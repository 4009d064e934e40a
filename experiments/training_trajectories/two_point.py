"""Is the mean of two iterates better than the last one, and than a smaller learning rate?

Dimension key: S seeds, C learning rates, N test images.
"""

import functools

import numpy as np

from experiments.training_trajectories import testbed
from experiments.training_trajectories.averaging_equivalence import chosen
from experiments.training_trajectories.paper import paper
from ico import lab

MAIN_GAP = 10  # epochs
LAST, TWO, HALF = "last iterate", "two points", "rate halved"


def rivals(run) -> dict[str, lab.Recipe]:
    """Schedules at equal steps, tuned over rates twice as high, since they end low."""
    return {
        "linear decay": testbed.sgd(run, "linear"),
        "cosine decay": testbed.sgd(run, "cosine"),
        "schedule-free": testbed.sgd(run, optimizer="schedule_free_sgd"),
    }


def halved(run, gap: int) -> lab.Recipe:
    """The learning rate halved for the last `gap` epochs."""
    num_steps = testbed.sgd(run).num_steps
    tail = min(num_steps, gap * testbed.steps_per_epoch(run))
    shares = np.repeat([1.0, 0.5], [num_steps - tail, tail])
    return testbed.sgd(run, tuple(shares.tolist()))


@paper.study("Is the mean of two iterates better than the last one?")
def two_point(run):
    """At the learning rate that is best for the last iterate; rivals at their own best one."""
    split, (rate, c) = testbed.digits(run), chosen(run)
    base = testbed.constant(run)
    run.note(f"The last iterate is best on validation images at a learning rate of {rate:g}.")

    def scored(method, params, gap=0, tuned=rate):
        found = testbed.measure(run, params, split.test)
        return lab.record(
            method=method, gap=gap, rate=float(tuned), loss=found["loss"], right=found["right"]
        )

    yield scored(LAST, testbed.at_rate(base.params, c))
    gaps = [gap for gap in run.config.gaps if gap <= run.config.epochs]
    for gap in gaps:
        yield scored(TWO, testbed.average_of(base, [-1 - gap, -1], c), gap)
    gap = MAIN_GAP if MAIN_GAP in gaps else gaps[-1]
    trained = testbed.train_digits(run, "halved", halved(run, gap), rates=(rate,))
    yield scored(HALF, testbed.at_rate(trained.params, 0), gap)
    yield scored("SWA over the gap", testbed.average_of(base, np.arange(-1 - gap, 0), c), gap)
    for name, recipe in rivals(run).items():
        rates = tuple(np.multiply(run.config.digit_rates, 2.0))
        trained = testbed.train_digits(run, name.replace(" ", "-"), recipe, rates=rates)
        best = testbed.best_rate(run, trained.params)
        yield scored(name, testbed.at_rate(trained.params, best), tuned=rates[best])


def _pair(*methods):
    """Records of two methods by name, at the gap of the claim."""

    def measure(compare, value):
        def of(records):
            gap = records.one(method=HALF).axes["gap"]
            places = {TWO: gap, HALF: gap}
            wanted = lab.Records(
                records.one(method=m, **({"gap": places[m]} if m in places else {}))
                for m in methods
            )
            return compare(value, method=methods)(wanted)

        return of

    return measure


claim = functools.partial(two_point.claim, source="abstract", kind="core")
claim(
    "loss",
    "The mean of two iterates ten epochs apart has a lower test loss than the last",
    unit="ratio",
    band=(None, 0.95),
    of=_pair(TWO, LAST)(lab.ratio, "loss"),
)
claim(
    "accuracy",
    "And a higher accuracy",
    unit="accuracy",
    band=(0, None),
    of=_pair(TWO, LAST)(lab.difference, "right"),
)
claim(
    "half_rate",
    "It is better than halving the learning rate for as many steps",
    unit="ratio",
    band=(None, 1),
    of=_pair(TWO, HALF)(lab.ratio, "loss"),
)
two_point.table("test loss and accuracy", lab.rows("loss", also=("right",)))
two_point.figure(
    lab.lines("gap", "loss", color="method", xlabel="epochs apart", ylabel="test loss, nats"),
    "Test loss on digits of the mean of two iterates by their distance (a gap of 0 is one run's "
    "end: the last iterate, and schedules at equal steps), with 95% intervals.",
)
