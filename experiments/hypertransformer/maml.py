"""Is the rival MAML as good as it gets: with second derivatives, with every layer adapting?

Dimension key: S seeds, T test episodes.
"""

from typing import Any

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from experiments.hypertransformer.testbed import MAML
from ico import lab

WHOLE, FIRST, ANIL, FIRST_ANIL = "MAML", "first order", "ANIL", "ANIL, first order"
VARIANTS: dict[str, dict[str, Any]] = {
    WHOLE: {},
    FIRST: {"first_order": True},
    ANIL: {"head_only": True},
    FIRST_ANIL: {"head_only": True, "first_order": True},
}


@paper.study("Is the rival MAML as good as it gets?")
def maml(run):
    """The fewest channels, ways and shots, at MAML's own learning rate."""
    yield from testbed.compared(run, VARIANTS, "variant", MAML)


maml.claim(
    "second_order",
    "MAML with second derivatives is at least as good as without, at its own learning rate",
    "control (1703.03400)",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", variant=(WHOLE, FIRST)),
)
maml.claim(
    "head_only",
    "Adapting every layer of a network this small is better than its head (ANIL), at MAML's rate",
    "control (1909.09157 finds them alike in larger ones)",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", variant=(WHOLE, ANIL)),
)
maml.table("accuracy", lab.rows("accuracy", also=("parameters",)))
maml.figure(
    lab.bars("accuracy", x="variant", ylabel="accuracy, %", xlabel=""),
    "Accuracy on classes of unseen scripts, 5 ways and 1 shot, of MAML and what is made of it; 95% "
    "intervals over seeds and episodes.",
)
