"""What the papers claim, and the band each measurement must fall in.

Fixed before the published run; README.md says what was added after earlier ones.

Losses of sequences are means over positions of 1/2 |error|^2, unless a position is named.
"""

from ico import report
from ico.report import Claim, Measurement

PAPER = "2309.05858"
SUCCESSOR = "2506.05233"


def _claim(id, statement, where, unit, low, high):
    return Claim(id, statement, where, unit, (low, high))


CLAIMS = (
    _claim(
        "one_layer_gd.loss",
        "One trained linear layer has the loss of one gradient step at the best rate",
        f"{PAPER}, Fig. 4A", "ratio", 0.98, 1.02,
    ),
    _claim(
        "one_layer_gd.halfway",
        "So has the model halfway between the layer and the weights of a gradient step",
        f"{PAPER}, Fig. 4A", "ratio", 0.98, 1.02,
    ),
    _claim(
        "one_layer_gd.everywhere",
        "At no position do the losses of layer and gradient step differ more (the largest of the "
        "ratios and their inverses)",
        f"{PAPER}, Fig. 4A; by position is ours", "ratio", None, 1.02,
    ),
    _claim(
        "deep.monotone",
        "The loss falls with depth, 1, 2, 4, 6 linear layers: the smallest fall",
        f"{PAPER}, Fig. 4B", "half squared error", 0.0, None,
    ),
    _claim(
        "deep.two_layers",
        "Two linear layers have a loss of 0.38 to 0.48",
        f"{PAPER}, Fig. 4B", "half squared error", 0.38, 0.48,
    ),
    _claim(
        "deep.compressed",
        "Six layers are described by the scalars read off their weights (ratio of losses)",
        f"{PAPER}, Fig. 4B", "ratio", 0.9, 1.1,
    ),
    _claim(
        "deep.compressed_late",
        "Also where least squares is determined, at positions from twice the width on",
        f"{PAPER}, Fig. 4B; the positions are ours", "ratio", 0.9, 1.1,
    ),
    _claim(
        "deep.compressed_trained",
        "Such scalars, trained on, have the loss of six layers",
        f"{PAPER}, Fig. 4B; training on is ours", "ratio", 0.9, 1.1,
    ),
    _claim(
        "deep.mesa",
        "One mesa layer has the loss of least squares that counts every pair, at its best "
        "regulariser, or less",
        f"{PAPER}, Fig. 4B", "ratio", None, 1.05,
    ),
    _claim(
        "deep.mesa_late",
        "Also at positions from twice the width on, where hardly any of that loss lies",
        f"{PAPER}, Fig. 4B; the positions are ours", "ratio", None, 1.05,
    ),
    _claim(
        "deep.mesa_size",
        "It has fewer parameters than six linear layers",
        f"{PAPER}, section 5", "ratio", None, 0.99,
    ),
    _claim(
        "token_binding.attention",
        "The first layer of a full model copies: mean attention of its most copying head on the "
        "token before",
        f"{PAPER}, Fig. 3", "attention", 0.9, None,
    ),
    _claim(
        "token_binding.previous",
        "The token before is read off the first layer's output by a linear map",
        f"{PAPER}, Fig. 2", "R^2", 0.95, None,
    ),
    _claim(
        "probes.target",
        "The next token is read off better after every layer of six (smallest fall of the probe's "
        "error)",
        f"{PAPER}, Fig. 4E", "half squared error", 0.0, None,
    ),
    _claim(
        "model_comparison.hybrid_linear",
        "Softmax and one mesa layer end below softmax and six linear layers at the last token "
        "(their loss less the hybrid's)",
        f"{PAPER}, Fig. 6C", "half squared error", 0.0, None,
    ),
    _claim(
        "model_comparison.hybrid_softmax",
        "They end below seven softmax layers, too, after as many steps",
        f"{PAPER}, Fig. 6C", "half squared error", 0.0, None,
    ),
    _claim(
        "model_comparison.hybrid_mostly",
        "They end below softmax and six linear layers on most sequences (share of them), not only "
        "in the mean, which few bad ones may decide",
        f"{PAPER}, Fig. 6C; the share is ours", "share", 0.5, None,
    ),
    _claim(
        "few_shot.untuned",
        "Trained on dynamics, a model learns regressions from pairs at once: loss at the last pair "
        "over that at the first",
        f"{PAPER}, Fig. 8A", "ratio", None, 0.6,
    ),
    _claim(
        "few_shot.eos",
        "A tuned token behind each pair helps: share of the loss it takes away at pair 11",
        f"{PAPER}, Fig. 8A", "share", 0.15, None,
    ),
    _claim(
        "recall.gated_linear",
        "Where gated linear attention stays under 90%, the mesa layer of equal parameters (and "
        "twice the state) recalls more",
        f"{SUCCESSOR}, Table 9", "accuracy", 0.0, None,
    ),
    _claim(
        "recall.delta",
        "There it recalls more than the delta rule, too",
        f"{SUCCESSOR}, Table 9", "accuracy", 0.0, None,
    ),
    _claim(
        "language.hybrid",
        "Softmax and a mesa layer predict English better than two layers of linear attention of "
        "equal size (nats a token, less)",
        f"{PAPER}, Figs. 26 and 27", "nats", 0.0, None,
    ),
    _claim(
        "language.hybrid_linear",
        "And better than softmax and linear attention: what the mesa layer adds (nats a token, "
        "less)",
        f"{PAPER}, Figs. 26 and 27", "nats", 0.0, None,
    ),
)  # fmt: skip


def all_measured(claim: str, *samples, statistic) -> Measurement:
    """`ico.report.all_measured`, for a claim's id."""
    return report.all_measured(
        next(entry for entry in CLAIMS if entry.id == claim), *samples, statistic=statistic
    )
