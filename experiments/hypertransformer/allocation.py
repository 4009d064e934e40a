"""Does it matter how weights are cut into tokens, and what else is written?

Dimension key: S seeds, T test episodes.
"""

from typing import Any

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from ico import lab

BASE = "by output channel"
VARIANTS: dict[str, dict[str, Any]] = {
    BASE: {},
    "by pixel of the kernel": {"allocation": "spatial"},
    "encoder and decoder": {"separate": True},
    "normalisation written, too": {"write_norm": True},
}
_ALIKE = (-2.0, 2.0)  # points, within which "very similar" is meant here


@paper.study("Does it matter how weights are cut into tokens?")
def allocation(run):
    """All layers written, the fewest channels, ways and shots."""
    yield from testbed.compared(run, VARIANTS, "weights")


for identity, name in zip(("spatial", "separate", "norms"), list(VARIANTS)[1:], strict=True):
    allocation.claim(
        identity,
        f"Weights {name}: as accurate as {BASE}, within two points",
        "section 4",
        unit="points",
        band=_ALIKE,
        of=lab.difference("accuracy", weights=(name, BASE)),
    )
allocation.table("accuracy", lab.rows("accuracy", also=("parameters",)))
allocation.figure(
    lab.bars("accuracy", x="weights", ylabel="accuracy, %", xlabel=""),
    "Accuracy on letters of unseen scripts, 5 ways and 1 shot, by how the weights are cut into "
    "tokens; 95% intervals over seeds and episodes.",
)
