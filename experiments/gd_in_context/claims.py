"""What the paper claims, and the band each measurement must fall in. Fixed before any run.

Losses are half squared errors of the query. "Ratio" is a model's loss over the loss of the
algorithm it is compared with, on the same tasks.
"""

from ico.report import Claim

PAPER = "2212.07677"


def _claim(id, statement, where, unit, low, high):
    return Claim(id, statement, f"{PAPER}, {where}", unit, (low, high))


CLAIMS = (
    _claim(
        "one_layer.construction_float32",
        "The constructed weights are gradient descent: largest difference of predictions over "
        "100 steps from a random start (12 inputs, 8 outputs, 45 pairs), float32",
        "Proposition 1, A.1", "absolute difference", None, 1e-4,
    ),
    _claim(
        "one_layer.construction_float64",
        "The same in float64",
        "Proposition 1, A.1", "absolute difference", None, 1e-10,
    ),
    _claim(
        "one_layer.closed_form",
        "One gradient step at the line-searched rate has its closed-form loss, 0.2062",
        "Fig. 2", "half squared error", 0.2062 * 0.99, 0.2062 * 1.01,
    ),
    _claim(
        "one_layer.loss_ratio",
        "A trained linear self-attention layer has the loss of one gradient step",
        "Fig. 2", "ratio", 0.99, 1.01,
    ),
    _claim(
        "one_layer.cosine",
        "Its sensitivity to the query points along that of gradient descent",
        "Fig. 2", "cosine", 0.99, None,
    ),
    _claim(
        "one_layer.interpolated_ratio",
        "The model halfway between the trained and the constructed weights has that loss too",
        "Fig. 2", "ratio", 0.99, 1.01,
    ),
    _claim(
        "one_layer.weights_kq",
        "Trained W_KQ matches the construction: |W_KQ/beta - I_x| / |I_x|, Frobenius norms",
        "section 3", "relative error", None, 0.1,
    ),
    _claim(
        "one_layer.weights_pv",
        "Trained W_PV matches the construction, in the same measure",
        "section 3", "relative error", None, 0.1,
    ),
    _claim(
        "dimensions.loss_ratio",
        "The match holds for every N = d: the ratio furthest from one",
        "Fig. 2", "ratio", 0.99, 1.01,
    ),
    _claim(
        "roll_out.loss_ratio",
        "The trained layer repeated 20 times with damping 0.75 follows gradient descent: the "
        "ratio furthest from one",
        "Figs. 1 and 10", "ratio", 0.98, 1.02,
    ),
    _claim(
        "deep.two_tied_loss",
        "Two tied layers reach a loss of 0.100 to 0.120, where GD++ is",
        "Fig. 3a", "half squared error", 0.100, 0.120,
    ),
    _claim(
        "deep.two_tied_beats_gd",
        "Two tied layers beat two plain gradient steps (loss of GD minus theirs)",
        "Fig. 3a", "half squared error", 0.0, None,
    ),
    _claim(
        "deep.two_tied_closer_to_gd_plus_plus",
        "Their sensitivities are closer to GD++'s than to GD's (difference of cosines)",
        "Fig. 3a", "cosine", 0.0, None,
    ),
    _claim(
        "deep.two_tied_gamma",
        "The curvature correction gamma read from their weights is the one that fits GD++ best "
        "(ratio of the two)",
        "A.10", "ratio", 0.85, 1.15,
    ),
    _claim(
        "deep.five_untied_ratio",
        "Five untied layers have the loss of five-step GD++ with rates of its own for each step",
        "Fig. 3b", "ratio", 0.9, 1.1,
    ),
    _claim(
        "deep.five_untied_beats_gd",
        "Five untied layers are below five plain gradient steps (loss of GD minus theirs)",
        "Fig. 3b", "half squared error", 0.0, None,
    ),
    _claim(
        "deep.ten_tied_ratio",
        "Ten tied layers have the loss of ten-step GD++",
        "Fig. 7", "ratio", 0.9, 1.1,
    ),
    _claim(
        "deep.ten_tied_beats_gd",
        "Ten tied layers are below ten plain gradient steps (loss of GD minus theirs)",
        "Fig. 7", "half squared error", 0.0, None,
    ),
    _claim(
        "deep.falls_with_depth",
        "The loss falls with depth, tied (1, 2, 5, 10) and untied (1, 2, 5): the smallest fall",
        "Figs. 2, 3 and 7", "half squared error", 0.0, None,
    ),
    _claim(
        "full_block.ratio",
        "Twelve full blocks (4 heads, MLP) have the loss of twelve-step GD++",
        "Fig. 8", "ratio", 0.85, 1.15,
    ),
    _claim(
        "out_of_distribution.input_range",
        "Other input ranges, 0.5 to 1.5: the value furthest from one "
        "of the ratio to gradient descent",
        "Figs. 2 and 6", "ratio", 0.95, 1.05,
    ),
    _claim(
        "out_of_distribution.weight_scale",
        "Other weight scales, 0.5 to 3: the value furthest from one "
        "of the ratio to gradient descent",
        "Figs. 2 and 6", "ratio", 0.95, 1.05,
    ),
    _claim(
        "softmax_heads.one_worse_than_two",
        "One softmax head is worse than two (loss difference)",
        "Figs. 11 and 12", "half squared error", 0.0, None,
    ),
    _claim(
        "softmax_heads.two_worse_than_linear",
        "Two softmax heads are worse than one linear head (loss difference)",
        "Figs. 11 and 12", "half squared error", 0.0, None,
    ),
    _claim(
        "distractors.loss_ratio",
        "With up to 8 of 10 labels random the model degrades as gradient descent does: the "
        "largest ratio of the losses",
        "appendix", "ratio", None, 1.05,
    ),
    _claim(
        "sine_mlp.loss_ratio",
        "MLP and one attention layer reach the loss of an MLP and one learned gradient step",
        "Fig. 4", "ratio", None, 1.05,
    ),
    _claim(
        "token_copy.neighbour_attention",
        "The first layer attends to the other token of the pair: its mean attention weight there, "
        "for the kind of token (x or y) that does it more",
        "Fig. 5", "attention weight", 0.5, None,
    ),
    _claim(
        "token_copy.cosine",
        "On alternating tokens the two-layer model's sensitivities match one gradient step's",
        "Fig. 5", "cosine", 0.95, None,
    ),
    _claim(
        "token_copy.linear_first_layer_ratio",
        "With a linear first layer the loss stays far above one gradient step's",
        "section 5", "ratio", 1.5, None,
    ),
    _claim(
        "token_copy.prefix_matching",
        "The second layer's attention on the pair whose input the query repeats is above that on "
        "another pair (difference of scores): the induction-head link",
        "section 5", "share of attention", 0.0, None,
    ),
    _claim(
        "fixed_task_set.falls_with_tasks",
        "Test loss falls with the number of training tasks: the smallest fall between sizes",
        "Figs. 15 and 16", "half squared error", 0.0, None,
    ),
)  # fmt: skip
