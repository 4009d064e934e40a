"""What the paper claims, and the band each measurement must fall in. Fixed before any run.

The first run, on seed 0, was of L3RS without an average, the second, on seed 1 and stopped, of one
with it; the published one, on seed 2, is of a third design. Claims and bands were the same.

Losses are mean test losses at the end of a fine-tuning, nats. "The best hand-designed optimizer" is
that of all tuned ones whose loss is least on the runs that it was tuned on.
"""

from ico.report import Claim

PAPER = "2408.09310"


def _claim(id, statement, where, unit, low, high):
    return Claim(id, statement, f"{PAPER}, {where}", unit, (low, high))


CLAIMS = (
    _claim(
        "in_distribution.loss",
        "On every task the learned optimizer ends below 0.85 times the loss of the best "
        "hand-designed one, tuned for task and horizon (the largest ratio)",
        "abstract; the band is ours", "ratio", None, 0.85,
    ),
    _claim(
        "in_distribution.general",
        "And below the general learned optimizers, trained on the mixture of all tasks (the "
        "smallest difference)",
        "abstract", "nats", 0.0, None,
    ),
    _claim(
        "in_distribution.specialised",
        "And below those when they were trained on the task itself, for as many inner steps (the "
        "smallest difference)",
        "abstract; the comparison is ours", "nats", 0.0, None,
    ),
    _claim(
        "new_initialisation.loss",
        "So it does from networks of unseen pretraining seeds (the largest ratio)",
        "abstract; the band is ours", "ratio", None, 0.85,
    ),
    _claim(
        "new_dataset.loss",
        "On a data set that it was not trained on it is no worse than the best hand-designed "
        "optimizer, tuned there (the largest ratio)",
        "abstract; the band is ours", "ratio", None, 1.0,
    ),
    _claim(
        "longer_horizon.twice",
        "Nor for twice as many steps as it was trained for, against optimizers tuned for them (the "
        "largest ratio)",
        "abstract; the band is ours", "ratio", None, 1.0,
    ),
    _claim(
        "longer_horizon.four_times",
        "Nor for four times as many (the largest ratio)",
        "abstract; the band is ours", "ratio", None, 1.0,
    ),
    _claim(
        "specialisation.diagonal",
        "An optimizer trained on a task is better there than those trained on other tasks (the "
        "smallest difference)",
        "title; the matrix is ours", "nats", 0.0, None,
    ),
    _claim(
        "specialisation.per_layer",
        "Steps and mixes by layer are better than one for all layers, on every task (the smallest "
        "difference)",
        "abstract", "nats", 0.0, None,
    ),
)  # fmt: skip
