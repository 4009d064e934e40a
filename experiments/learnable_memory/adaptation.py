"""How near does a little memory come to fine-tuning everything?

Dimension key: S seeds, T test images.
"""

import numpy as np

from experiments.learnable_memory import testbed
from experiments.learnable_memory.paper import paper
from experiments.learnable_memory.testbed import FIVE, FULL, HEAD, TOKEN
from ico import lab, report

WAYS = (
    HEAD,
    TOKEN,
    testbed.cells(1),
    FIVE,
    testbed.UNMASKED,
    testbed.HANDED_ON,
    testbed.PROMPTS,
    testbed.MANY_PROMPTS,
    testbed.LORA,
    testbed.ADAPTERS,
    testbed.ADAMIX,
    FULL,
)


@paper.study("How near does a little memory come to fine-tuning everything?")
def adaptation(run):
    """Every way on every target, each at its best learning rate."""
    for way in WAYS:
        operations = testbed.operations(run, way)
        for target in run.config.targets:
            found = testbed.adapt(run, way, target)
            yield lab.record(
                way=way,
                target=target,
                accuracy=100 * found.right,
                parameters=np.asarray(found.parameters),
                operations=np.asarray(operations),
                rate=np.asarray(found.rate),
            )


def joined(records, way):
    """Right answers on the test images of all targets, [S, T]."""
    found = [records.one(way=way, target=target) for target in records.axis("target")]
    return np.concatenate([one["accuracy"] for one in found], axis=1)


def in_order(records):
    """The steps from head to class token to five cells on every target: the smallest counts."""
    pairs = []
    for target in records.axis("target"):
        head, token, five = (
            records.one(way=way, target=target)["accuracy"] for way in (HEAD, TOKEN, FIVE)
        )
        pairs += [(token, head), (five, token)]
    return lab.EveryPair(pairs, report.difference, "on every target")


def share_closed(way):
    """Of the gap from head to everything, over the images of all targets."""

    def measure(records):
        found = [joined(records, name) for name in (way, HEAD, FULL)]
        _, (low, _) = report.interval(found[2], found[1], statistic=report.difference)
        if not low > 0:  # of nothing any share may be closed
            raise lab.Missing("fine-tuning everything is not above the head")
        return lab.measured(*found, statistic=lambda a, b, c: report.ratio(a - b, c - b))

    return measure


def above_propagated(records):
    """The lead of new memory in every layer over memory that is handed on."""
    return lab.measured(
        joined(records, testbed.UNMASKED),
        joined(records, testbed.HANDED_ON),
        statistic=report.difference,
    )


def above_prompts(records):
    """The lead of five cells over as many numbers as prompts at the input."""
    return lab.measured(
        joined(records, FIVE), joined(records, testbed.MANY_PROMPTS), statistic=report.difference
    )


adaptation.claim(
    "in_order",
    "On every target the head alone is worse than with a class token, and that worse than 5 cells",
    "abstract and table of accuracies",
    kind="core",
    unit="points",
    band=(0, None),
    of=in_order,
)
adaptation.claim(
    "five_cells",
    "5 cells close at least 70% of the gap from the head to fine-tuning everything",
    "abstract ('only slightly below')",
    kind="core",
    unit="share",
    band=(0.7, None),
    of=share_closed(FIVE),
)
adaptation.claim(
    "one_cell",
    "One cell closes at least 40% of it",
    "table of accuracies (40 to 110%)",
    kind="core",
    unit="share",
    band=(0.4, None),
    of=share_closed(testbed.cells(1)),
)
adaptation.claim(
    "new_in_every_layer",
    "Memory that is new in every layer is better than memory that is handed on",
    "Fig. 2b",
    unit="points",
    band=(0, None),
    of=above_propagated,
)
adaptation.claim(
    "above_prompts",
    "Five cells are better than as many numbers in prompts at the input",
    "ours",
    kind="ours",
    unit="points",
    band=(0, None),
    of=above_prompts,
)
adaptation.table("accuracy", lab.rows("accuracy", also=("parameters", "operations", "rate")))
adaptation.figure(
    lab.bars("accuracy", x="target", color="way", ylabel="accuracy, %", xlabel=""),
    "Accuracy on each target by what is trained, with 95% intervals over seeds and images.",
)


@adaptation.figure(
    "Accuracy over all targets against the numbers that are trained, and the operations of an "
    "answer."
)
def cost(records):
    """A point a way, named."""
    fig, axes = report.canvas(2)
    for ax, axis in zip(axes.flat, ("parameters", "operations"), strict=True):
        colors = report.palette(len(WAYS))
        for way, color in zip(records.axis("way"), colors, strict=False):
            one = records.one(way=way, target=records.axis("target")[0])
            place = one[axis], joined(records, way).mean()
            ax.plot(*place, "o", color=color, label=way)
        ax.set(xlabel=axis, ylabel="accuracy, %", xscale="log")
    report.legend_below(fig, axes)
    return fig
