"""What of the transformer matters: its depth, its kind of attention, the width of its codes?

Dimension key: S seeds, T test episodes.
"""

from typing import Any

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from ico import lab

BASE, MESA, LINEAR, ONE = "softmax, 3 layers", "mesa", "linear", "1 layer"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    ONE: {"num_blocks": 1},
    MESA: {"kind": "mesa"},
    LINEAR: {"kind": "linear"},
}


@paper.study("What of the transformer matters?")
def ablations(run):
    """All layers written, the fewest channels, ways and shots; one change at a time."""
    yield from testbed.compared(run, VARIANTS, "transformer")


ablations.claim(
    "depth",
    "Three layers of attention are better than one",
    "Figures 5 and 6",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", transformer=(BASE, ONE)),
)
ablations.claim(
    "mesa",
    "An exact in-context solver (mesa attention) writes better weights than softmax attention",
    "ours",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", transformer=(MESA, BASE)),
)
ablations.table("accuracy", lab.rows("accuracy", also=("parameters",)))
ablations.figure(
    lab.bars("accuracy", x="transformer", ylabel="accuracy, %", xlabel=""),
    "Accuracy on letters of unseen scripts, 5 ways and 1 shot, of transformers that differ in one "
    "thing; 95% intervals over seeds and episodes.",
)
