"""Does it matter how weights are cut into tokens, and what else is written?

Dimension key: S seeds, T test episodes.
"""

from typing import Any

import numpy as np

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
    place = min(run.config.channels), min(run.config.ways), min(run.config.shots)
    for name, fields in VARIANTS.items():
        found = testbed.trained(run, testbed.ALL, *place, **fields)
        right = testbed.accuracy(
            run, found.model, found.params, testbed.letters(run).test, *place[1:]
        )
        yield lab.record(
            weights=name, accuracy=100 * right, failure_rate=found.failure_rate,
            parameters=np.asarray(found.num_parameters),
        )  # fmt: skip


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
