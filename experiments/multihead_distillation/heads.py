"""What do auxiliary heads add, and what would rivals reach?

Dimension key: S seeds, N test images.
"""

from experiments.multihead_distillation import testbed
from experiments.multihead_distillation.paper import paper
from experiments.multihead_distillation.testbed import (
    CENTRAL,
    DISTILLED,
    EMBEDDING,
    FEDAVG,
    SEPARATE,
    SINGLE,
    Setting,
)
from ico import lab, report


@paper.study("What do auxiliary heads add, and what would rivals reach?")
def heads(run):
    """The largest skew, a complete graph, and a cycle; each kind at its own learning rate."""
    skew = max(run.config.skews)
    for graph in ("complete", "cycle"):
        for count in run.config.heads:
            if count:  # without a head it is the embedding alone
                setting = Setting(heads=count, skew=skew, graph=graph)
                yield testbed.recorded(run, setting, kind=DISTILLED, heads=count, graph=graph)
    for kind in (SEPARATE, FEDAVG, SINGLE, EMBEDDING, CENTRAL):
        setting = Setting(kind, heads=0, skew=skew)
        yield testbed.recorded(run, setting, kind=kind, heads=0, graph="complete")


FULL = {"kind": DISTILLED, "graph": "complete", "heads": 4}


def lead(*rivals, value="shared"):
    """Of the last head over rivals, in points."""

    def measure(records):
        ours = records.one(**FULL)[value]
        pairs = [(ours, records.one(kind=kind)["shared"]) for kind in rivals]
        return lab.EveryPair(pairs, report.difference, f"over {', '.join(rivals)}")

    return measure


def over_main(records):
    """Of the last head over the main one, on all labels alike."""
    ours = records.one(**FULL)
    return lab.measured(ours["shared"], ours["main_shared"], statistic=report.difference)


def private_gain(records):
    """Of the main head over a separate client's, on the client's labels."""
    pair = records.one(**FULL)["private"], records.one(kind=SEPARATE)["private"]
    return lab.measured(*pair, statistic=report.difference)


def rises(records):
    """From one head to the most on a cycle: the gain, in points."""
    counts = sorted(r.axes["heads"] for r in records.where(kind=DISTILLED, graph="cycle"))
    pair = [
        records.one(kind=DISTILLED, graph="cycle", heads=n)["shared"]
        for n in (counts[-1], counts[0])
    ]
    return lab.measured(*pair, statistic=report.difference)


heads.claim(
    "last_over_main",
    "On all labels the last auxiliary head is at least 10 points above the main head",
    "abstract",
    kind="core",
    unit="points",
    band=(10.0, None),
    of=over_main,
)
heads.claim(
    "last_over_separate",
    "And at least 20 points above clients that learn alone",
    "abstract",
    kind="core",
    unit="points",
    band=(20.0, None),
    of=lead(SEPARATE),
)
heads.claim(
    "last_over_single",
    "And above distillation into a single head (FedMD) and into the embedding alone",
    "abstract",
    kind="core",
    unit="points",
    band=(0, None),
    of=lead(SINGLE, EMBEDDING),
)
heads.claim(
    "private_kept",
    "On its client's own labels the main head is at most 2 points below that of a client alone",
    "abstract",
    kind="core",
    unit="points",
    band=(-2.0, None),
    of=private_gain,
)
heads.claim(
    "private_enhanced",
    "And it is above it",
    "abstract ('enhance')",
    kind="core",
    unit="points",
    band=(0, None),
    of=private_gain,
)
heads.claim(
    "cycle",
    "On a cycle more heads are better: four over one, on all labels",
    "abstract (several auxiliary heads)",
    kind="core",
    unit="points",
    band=(0, None),
    of=rises,
)
heads.table("accuracy", lab.rows("shared", also=("main_shared", "private")))
heads.figure(
    lab.lines(
        "heads",
        "shared",
        color="graph",
        kind=DISTILLED,
        xlabel="auxiliary heads",
        ylabel="accuracy on all labels, %",
    ),
    "Accuracy of the last head over all labels alike, by the number of heads; 95% intervals over "
    "seeds and images.",
)
heads.figure(
    lab.bars("shared", x="kind", heads=[0, 4], graph="complete", ylabel="accuracy, %", xlabel=""),
    "Accuracy over all labels alike: the last of four heads, and rivals.",
    name="rivals",
)
