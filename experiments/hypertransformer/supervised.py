"""Does a network whose layers are all written learn better from few images?

Dimension key: S seeds, T test episodes.
"""

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from experiments.hypertransformer.testbed import ALL, HEAD, LOGITS, MAML, PIXELS, PROTO
from ico import lab, report


@paper.study("Does a network whose layers are all written learn better from few images?")
def supervised(run):
    """Every kind of model at every size, on classes of unseen scripts."""
    for channels in run.config.channels:
        for way in run.config.ways:
            for shot in run.config.shots:
                place = {"channels": channels, "way": way, "shot": shot}
                for kind in (*testbed.WRITTEN, *testbed.RIVALS):
                    yield from _scores(run, kind, place)
                if channels == min(run.config.channels):
                    yield from _floor(run, way, shot)


def _scores(run, kind, place):
    found = testbed.trained(run, kind, place["channels"], place["way"], place["shot"])
    sets = {"unseen scripts": testbed.classes(run).test} | testbed.other_sets(run)
    for name, images in sets.items():
        right = testbed.accuracy(
            run, found.apply, found.params, images, place["way"], place["shot"]
        )
        yield lab.record(
            method=kind,
            classes=name,
            **place,
            accuracy=100 * right,
            failure_rate=found.failure_rate,
        )
    curve = found.history
    if kind != HEAD:  # its accuracy in training is that over all base classes
        yield lab.record(
            "curve",
            method=kind,
            **place,
            step=curve["step"],
            accuracy=100 * curve["accuracy"].T,
        )


def _floor(run, way, shot):
    right = testbed.pixel_accuracy(run, testbed.classes(run).test, way, shot)
    yield lab.record(
        method=PIXELS,
        classes="unseen scripts",
        channels=0,
        way=way,
        shot=shot,
        accuracy=100 * right,
    )


UNSEEN = {"classes": "unseen scripts", "way": 5, "shot": 1}


def smallest(method: str, rivals: tuple[str, ...], channels: int):
    """A method's lead over each of its rivals at one size, in points."""

    def measure(records):
        found = [
            records[""].one(method=m, channels=channels, **UNSEEN)["accuracy"]
            for m in (method, *rivals)
        ]
        pairs = [(found[0], other) for other in found[1:]]
        return lab.EveryPair(pairs, report.difference, f"over {', '.join(rivals)}")

    return measure


def shrinking(records):
    """How much larger the lead of all layers is at 4 channels than at 8, in points."""
    found = [
        records[""].one(method=m, channels=c, **UNSEEN)["accuracy"]
        for c in (4, 8)
        for m in (ALL, LOGITS)
    ]
    return lab.measured(*found, statistic=lambda a, b, c, d: (a - b) - (c - d))


def above_floor(records):
    """The lead of every method over the pixels, in points."""
    floor = records[""].one(method=PIXELS, classes="unseen scripts", way=5, shot=1)["accuracy"]
    rows = records[""].where(**UNSEEN)
    pairs = [(r["accuracy"], floor) for r in rows if r["method"] != PIXELS]
    return lab.EveryPair(pairs, report.difference)


supervised.claim(
    "all_layers",
    "At 4 channels, writing all layers beats writing the last alone (5 ways, 1 shot)",
    "abstract",
    kind="core",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", method=(ALL, LOGITS), channels=4, **UNSEEN),
)
supervised.claim(
    "shrinks",
    "The lead of all layers over the last alone is smaller at 8 channels than at 4",
    "abstract",
    kind="core",
    unit="points",
    band=(0, None),
    of=shrinking,
)
supervised.claim(
    "last_layer",
    "At 8 channels, writing the last layer alone is at least as good as every rival",
    "abstract",
    kind="core",
    unit="points",
    band=(0, None),
    of=smallest(LOGITS, testbed.RIVALS, 8),
)
supervised.claim(
    "tiny",
    "At 4 channels, writing all layers is at least as good as MAML and ProtoNet",
    "Tables 1 to 3",
    kind="core",
    unit="points",
    band=(0, None),
    of=smallest(ALL, (MAML, PROTO), 4),
)
supervised.claim(
    "above_pixels",
    "Every model beats the nearest mean of the pixels",
    "control",
    kind="ours",
    unit="points",
    band=(0, None),
    of=above_floor,
)
supervised.table("accuracy", lab.rows("accuracy"))
supervised.figure(
    lab.bars(
        "accuracy",
        x="channels",
        color="method",
        ylabel="accuracy, %",
        **UNSEEN,
        xlabel="channels (0: none at all)",
    ),
    "Accuracy on letters of unseen scripts, 5 ways and 1 shot, with 95% intervals over seeds and "
    "episodes.",
)
supervised.figure(
    lab.lines(
        "step",
        "accuracy",
        color="method",
        panel="channels",
        record="curve",
        ylabel="training accuracy, %",
        way=5,
        shot=1,
    ),
    "Accuracy on training episodes, 5 ways and 1 shot, a line a seed. Written layers stay on a "
    "plateau at first.",
)
