"""Does a network forget how images looked when the same classes come in another look?

Dimension key: S seeds, E test sequences, T looks.
"""

from experiments.continual_hypertransformer import testbed
from experiments.continual_hypertransformer.paper import paper
from experiments.continual_hypertransformer.testbed import CHT, DOMAINS, PROTO
from ico import lab


@paper.study("Does a network forget how images looked when they come to look otherwise?")
def domains(run):
    """The same classes plain, then negative, then as outlines; prototypes are averaged."""
    images = testbed.classes(run).test
    for name in (CHT, PROTO):
        found = testbed.trained(run, name, DOMAINS)
        right = testbed.accuracy(run, found, images, run.config.num_tasks, DOMAINS)
        yield testbed.scored(name, right)


domains.claim(
    "transfer",
    "Domain-incremental: backward transfer is above -2 points",
    "section on several domains (theirs are data sets; here three looks of the same classes)",
    unit="points",
    band=(-2.0, None),
    of=lab.mean("transfer", model=CHT),
)
domains.claim(
    "above_fixed",
    "And accuracy after the last domain is above that of one fixed embedding of equal size",
    "section on several domains",
    unit="points",
    band=(0, None),
    of=lab.difference("accuracy", model=(CHT, PROTO)),
)
domains.table("accuracy after the last look", lab.rows("accuracy", also=("transfer",)))
domains.figure(
    lab.maps("matrix", each=("after each look (down), asked about each (across)",), high=100.0),
    "Accuracy by network and look: plain, negative, outlines.",
)
