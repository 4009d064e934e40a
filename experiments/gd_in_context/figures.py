"""The figures of the report, drawn from the saved studies of a run.

Captions say what is plotted and never what came out: that stands in the claims.
"""

import os

from experiments.gd_in_context import _one_layer_figures as one
from experiments.gd_in_context import _other_figures as other
from ico.report import draw_figures

_SEEDS = "Thick lines are means over seeds, thin lines the seeds."
_STEPWISE = (
    "Left: its loss while training, with the losses of gradient descent at its best fixed rate and "
    "of GD++ after as many steps as there are layers. "
)
_BY_LAYER = "loss read off after each layer, beside the two algorithms after as many steps. "

# study -> (figure name, its function, caption), in the order of showing.
FIGURES = {
    "one_layer": (
        (
            "one_layer_training",
            one.training,
            "Paper, Fig. 2. One linear self-attention layer while it trains. Left: its loss on "
            "tasks of its own distribution, that of the model halfway between its weights and the "
            "construction, and the loss of one gradient step; the axis ends just above the trained "
            "layer's highest loss. Middle: cosine between the derivatives of layer and gradient "
            "descent by the query input, mean over tasks. Right: norm of the difference of "
            f"these derivatives, and absolute difference of the predictions. {_SEEDS}",
        ),
        (
            "one_layer_weights",
            one.weights,
            "Paper, section 3. The products of the trained weights, scaled by beta (the mean "
            "diagonal of W_KQ without its last entry), beside those of the construction for "
            "gradient descent. One colour scale a row, out to 1.5 times the construction's largest "
            "entry, what lies beyond in its end colours; the last row and column belong to y.",
        ),
    ),
    "dimensions": (
        (
            "dimensions",
            one.dimensions,
            "Paper, Fig. 2. A layer trained for each number of context pairs N = d, beside one "
            "gradient step. Left: mean loss in its 95% interval over tasks and seeds. Right: the "
            "ratio of the two losses, for each seed (thin) and on average (thick).",
        ),
    ),
    "roll_out": (
        (
            "roll_out",
            one.roll_out,
            "Paper, Figs. 1 and 10. The trained layer applied again and again with damping 0.75, "
            "updating labels only, beside as many steps of gradient descent at 0.75 of its "
            f"searched rate. Right: the ratio of the two losses. {_SEEDS}",
        ),
    ),
    "deep": (
        (
            "deep_2_tied",
            other.two_tied,
            "Paper, Fig. 3a. Two layers that share their weights. "
            f"{_STEPWISE}Middle: {_BY_LAYER}"
            "Right: cosine between the derivatives by the query input of the trained model and of "
            f"two steps of either algorithm, a marker a seed. {_SEEDS}",
        ),
        (
            "deep_5_untied",
            other.five_untied,
            "Paper, Fig. 3b. Five layers with weights of their own; GD++ has a rate and a gamma of "
            f"its own for each step. {_STEPWISE}Right: {_BY_LAYER}{_SEEDS}",
        ),
        (
            "deep_10_tied",
            other.ten_tied,
            "Paper, Fig. 7. Ten layers that share their weights. "
            f"{_STEPWISE}Right: {_BY_LAYER}{_SEEDS}",
        ),
        (
            "deep_other",
            other.other_depths,
            "Beyond the paper: the same for other depths and ways of sharing weights. Loss read "
            f"off after each layer, beside the two algorithms after as many steps. {_SEEDS}",
        ),
        (
            "deep_by_depth",
            other.by_depth,
            "Paper, Figs. 3 and 7 together. Loss after the last layer against the number of "
            "layers, beside gradient descent at its best fixed rate and GD++ of as many steps. "
            f"{_SEEDS}",
        ),
    ),
    "full_block": (
        (
            "full_block",
            other.full_block,
            "Paper, Fig. 8. Twelve transformer blocks with four heads and MLPs. "
            f"{_STEPWISE}Right: {_BY_LAYER}{_SEEDS}",
        ),
    ),
    "out_of_distribution": (
        (
            "out_of_distribution_scale",
            one.ranges,
            "Paper, Figs. 2 and 6. The layer trained at range and scale 1, and one gradient step "
            "at the rate searched there, on tasks with inputs of another range and weights of "
            f"another scale. Logarithmic loss axes. {_SEEDS}",
        ),
        (
            "out_of_distribution_inputs",
            one.distributions,
            "Paper, Fig. 6. The same two on inputs of other distributions, each task "
            "rescaled so that its context inputs have the Frobenius norm on the horizontal axis. "
            f"Logarithmic loss axes. {_SEEDS}",
        ),
    ),
    "softmax_heads": (
        (
            "softmax_heads",
            one.softmax_heads,
            "Paper, Figs. 11 and 12. Left: loss while training one layer of linear attention, of "
            "softmax attention with one head and with two, and the loss of one gradient step. "
            "Right: cosine of the trained layers' derivatives by the query input with those of "
            f"gradient descent, mean over seeds. {_SEEDS}",
        ),
    ),
    "layer_norm": (
        (
            "layer_norm",
            one.layer_norm,
            "Paper, Fig. 14. One linear layer with LayerNorm on the tokens before it. Left: loss "
            "while training, and the loss of one gradient step. Right: cosine of its derivatives "
            f"by the query input with those of gradient descent, a marker a seed. {_SEEDS}",
        ),
    ),
    "distractors": (
        (
            "distractors",
            one.distractors,
            "Paper, appendix. Some of the ten labels in the context are replaced by noise; layer "
            "and gradient descent's rate are those of clean contexts. Right: the ratio of the two "
            f"losses. {_SEEDS}",
        ),
    ),
    "sine_mlp": (
        (
            "sine_predictions",
            other.sine_predictions,
            "Paper, Fig. 4. Predictions for four sine waves from the context points shown, by an "
            "MLP with one attention layer and by an MLP with one gradient step of learned rate; "
            "the first seed of both.",
        ),
        (
            "sine_training",
            other.sine_training,
            f"Paper, Fig. 4. Loss of both while training, on a logarithmic axis. {_SEEDS}",
        ),
    ),
    "token_copy": (
        (
            "token_copy_mechanism",
            other.copy_mechanism,
            "Paper, Fig. 5. Tokens alternate between x and y. Left: how much each token behind the "
            "softmax layer depends on its own input, on the next token's and, on average, on any "
            "other's: norm of the mean gradient over tasks. Right: mean attention weights of the "
            f"softmax layer over the context tokens. {_SEEDS}",
        ),
        (
            "token_copy_training",
            other.copy_training,
            "Paper, Fig. 5 and section 5. Left: loss while training with a softmax and with a "
            "linear first layer, and the loss of one gradient step. Right: where the query looks "
            "in the second layer when it repeats an input of the context: share of absolute "
            "scores on the pair it repeats and on another pair drawn at random, a marker a seed. "
            f"{_SEEDS}",
        ),
    ),
    "fixed_task_set": (
        (
            "fixed_task_set_curves",
            one.task_set_curves,
            "Paper, Figs. 15 and 16. One layer trained on finite sets of tasks: loss on those and "
            "on fresh tasks while training, and the loss of one gradient step on fresh tasks. "
            f"Logarithmic loss axes. {_SEEDS}",
        ),
        (
            "fixed_task_set_sizes",
            one.task_set_sizes,
            "Paper, Figs. 15 and 16. Loss after training against the number of tasks trained on: "
            "on fresh tasks, with the 95% interval shaded, and on the trained tasks themselves.",
        ),
    ),
    "real_data": (
        (
            "real_data_learners",
            other.real_learners,
            "Beyond the paper: tasks from scikit-learn's diabetes table. Mean loss with its 95% "
            "interval over tasks and seeds, on a logarithmic axis, by rows in context. "
            "The layer is the one trained on synthetic tasks, its update scaled by 10 over the "
            'number of rows; "searched" means chosen on other tasks of the table.',
        ),
        (
            "real_data_scaling",
            other.real_unscaled,
            "The same table: the trained layer, the layer with its update not scaled by 10 over "
            "the number of rows, and with inputs of unit deviation in place of the training "
            "distribution's. Mean loss with its 95% interval on a logarithmic axis.",
        ),
    ),
}


def draw(directory: str | os.PathLike) -> list[tuple[str, str, str]]:
    """Draws the figures of a run folder: see `ico.report.draw_figures`."""
    return draw_figures(directory, FIGURES)
