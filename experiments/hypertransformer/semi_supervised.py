"""Do images without a label help, and does it take more than one layer of attention?

Dimension key: S seeds, T test episodes.
"""

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from ico import lab, report

DEEP, ONE = "three", "one"  # layers of attention
OWN, OTHERS = "the episode's classes", "other classes"  # that images without a label are of


@paper.study("Do images without a label help?")
def semi_supervised(run):
    """All layers written, the fewest channels and ways, one labelled image of each class."""
    channels, way = min(run.config.channels), min(run.config.ways)
    none, most = min(run.config.unlabeled), max(run.config.unlabeled)
    for layers in (DEEP, ONE):
        for unlabeled in run.config.unlabeled if layers == DEEP else (none, most):
            fields = {} if layers == DEEP else {"num_blocks": 1}
            found = testbed.trained(run, testbed.ALL, channels, way, 1, unlabeled, **fields)
            right = testbed.accuracy(
                run, found.apply, found.params, testbed.classes(run).test, way, 1, unlabeled
            )
            yield lab.record(
                layers=layers,
                unlabeled=unlabeled,
                images=OWN,
                accuracy=100 * right,
                failure_rate=found.failure_rate,
            )
    yield _with_strangers(run, channels, way, most)


def _with_strangers(run, channels, way, unlabeled):
    """Trained and tested with images of other classes: what they do to the normalisation stays."""
    draw = testbed.sample_with_strangers
    place = channels, way, 1, unlabeled
    found = testbed.trained(run, testbed.ALL, *place, draw=draw)
    images = testbed.classes(run).test
    right = testbed.accuracy(run, found.apply, found.params, images, *place[1:], draw=draw)
    return lab.record(
        layers=DEEP,
        unlabeled=unlabeled,
        images=OTHERS,
        accuracy=100 * right,
        failure_rate=found.failure_rate,
    )


def gains(records):
    """Of 4 and of 9 images without a label over none, in points."""
    none = records.one(layers=DEEP, unlabeled=0, images=OWN)["accuracy"]
    found = [records.one(layers=DEEP, unlabeled=u, images=OWN)["accuracy"] for u in (4, 9)]
    return lab.EveryPair([(some, none) for some in found], report.difference)


def share_of_one_block(records):
    """The gain of 9 images without a label with one layer of attention, over that with three."""
    found = [
        records.one(layers=layers, unlabeled=u, images=OWN)["accuracy"]
        for layers in (ONE, DEEP)
        for u in (9, 0)
    ]
    return lab.measured(*found, statistic=lambda a, b, c, d: report.ratio(a - b, c - d))


semi_supervised.claim(
    "unlabelled_help",
    "4 and 9 images of each class without a label are better than none",
    "abstract",
    kind="core",
    unit="points",
    band=(0, None),
    of=gains,
)
semi_supervised.claim(
    "more_than_one_layer",
    "With one layer of attention, images without a label gain less than half as much as with three",
    "section 4.3",
    kind="core",
    unit="ratio",
    band=(None, 0.5),
    of=share_of_one_block,
)
semi_supervised.claim(
    "own_classes",
    "9 images without a label help more if they are of the episode's classes than of other ones",
    "control: all images of the support set enter its normalisation",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", layers=DEEP, unlabeled=9, images=(OWN, OTHERS)),
)
semi_supervised.table("accuracy", lab.rows("accuracy"))
semi_supervised.figure(
    lab.lines(
        "unlabeled",
        "accuracy",
        color="layers",
        images=OWN,
        xlabel="images of each class without a label",
        ylabel="accuracy, %",
    ),
    "Accuracy on letters of unseen scripts, 5 ways and 1 labelled image of each class, with one "
    "and with three layers of attention; 95% intervals over seeds and episodes.",
)
