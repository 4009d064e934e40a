"""How many bytes does a client send and hear for what it learns?

Dimension key: S seeds, E tests along a training.
"""

import numpy as np

from experiments.multihead_distillation import testbed
from experiments.multihead_distillation.paper import paper
from experiments.multihead_distillation.testbed import DISTILLED, FEDAVG, Setting
from ico import lab

_LARGE = 1_000_000  # parameters
_FLOAT = 4  # bytes


@paper.study("How many bytes does a client send and hear for what it learns?")
def communication(run):
    """Messages sent and heard in every step, and models sent and heard in every round."""
    most, skew = max(run.config.heads), max(run.config.skews)
    ours = testbed.trained(run, Setting(heads=most, skew=skew))
    theirs = testbed.trained(run, Setting(FEDAVG, heads=0, skew=skew))
    own = 2.0 * ours.message * ours.steps
    yield lab.record(kind=DISTILLED, parameters=0, bytes=own, accuracy=100 * ours.curve.T)
    rounds = theirs.steps // run.config.refresh
    for parameters in (int(theirs.parameters[0]), _LARGE):
        sent = 2.0 * _FLOAT * parameters * rounds
        yield lab.record(
            kind=FEDAVG, parameters=parameters, bytes=sent, accuracy=100 * theirs.curve.T
        )


def _bytes_until(record, level):
    """When the mean accuracy over seeds first reaches the level."""
    reached = record["accuracy"].mean(0) >= level
    return float(record["bytes"][np.argmax(reached)])


def ratio(records):
    """Ours over theirs at the highest accuracy that both reach, for a million parameters."""
    ours = records.one(kind=DISTILLED)
    theirs = records.one(kind=FEDAVG, parameters=_LARGE)
    level = min(r["accuracy"].mean(0).max() for r in (ours, theirs))
    value = _bytes_until(ours, level) / _bytes_until(theirs, level)
    return lab.Measurement(value, None, 0, 0, f"at {level:.1f}% over all labels")


communication.claim(
    "bytes",
    "At equal accuracy a client sends and hears fewer bytes than in federated averaging, if "
    "networks have a million parameters",
    "abstract (communication), computed from the messages",
    kind="core",
    unit="ratio",
    band=(None, 1.0),
    of=ratio,
)
communication.note(
    "Accuracies are those of the networks trained here; a million parameters only change how large "
    "a model is when it is sent. A message does not grow with the network."
)
communication.table(
    "bytes",
    lambda records: [
        {
            "kind": r["kind"],
            "parameters": r["parameters"] or "any",
            "bytes in all": float(r["bytes"][-1]),
            "accuracy, %": float(r["accuracy"].mean(0)[-1]),
        }
        for r in records
    ],
)
communication.figure(
    lab.lines(
        "bytes",
        "accuracy",
        color="kind",
        panel="parameters",
        log="x",
        xlabel="bytes sent and heard by a client",
        ylabel="accuracy on all labels, %",
    ),
    "Accuracy over all labels alike against the bytes that a client has sent and heard.",
)
