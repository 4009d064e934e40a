"""Transformers learn in-context by gradient descent.

Trained linear self-attention does gradient descent in its forward pass.

Paper:    von Oswald et al., arXiv 2212.07677.
Command:  python -m experiments.gd_in_context            (preset cpu)
Cost:     about an hour on two cores; what a run really took stands in its report.
Expected: a trained linear self-attention layer at a loss of 0.206, that of one gradient step.

Every study is a file of its own; what several share stands in regression.py. Losses are half
squared errors of the query; a "ratio" is the loss of a model over that of the algorithm it is
compared with, on the same tasks.
"""

from typing import Annotated

from ico import lab


class Config(lab.Config):
    """What a preset chooses. The bands of the claims are not among it."""

    # Models trained under one vmap, wherever a model is trained.
    num_seeds: lab.Count = 3
    # Tasks that gradient descent's learning rate is searched on.
    search_tasks: lab.Count = 100_000
    # Tasks that losses are compared on.
    eval_tasks: Annotated[int, lab.Range(2)] = 10_000
    # Tasks of learning curves.
    curve_tasks: lab.Count = 1_000
    # Tasks for the loss of one gradient step.
    closed_form_tasks: Annotated[int, lab.Range(16)] = 1_000_000
    # Tasks a training step, for one layer on plain tokens.
    batch_size: lab.Count = 1024
    # Tasks a training step, for all other models.
    deep_batch_size: lab.Count = 256
    # Multiplies the authors' learning rates, so that a short training goes further.
    learning_rate_factor: lab.Positive = 3.0
    # A linear decay to zero at the end, where the authors' rates stay constant.
    decay: bool = True
    # Training of one layer, also with softmax, LayerNorm, and for each of sweep_dims.
    one_layer_steps: lab.Count = 2_500
    # Sizes N = d that the study dimensions adds to 10.
    sweep_dims: lab.Distinct[lab.Count] = (2, 5, 15, 20)
    # Depths of models with tied layers.
    tied_depths: lab.Distinct[lab.Count] = (2, 5, 10)
    # Depths of models with untied layers.
    untied_depths: lab.Distinct[lab.Count] = (2, 5, 10)
    # Training of tied models.
    tied_steps: lab.Count = 4_000
    # Training of untied models.
    untied_steps: lab.Count = 5_000
    # L-BFGS steps that fit the explicit algorithms' rates (GD++).
    fit_steps: lab.Count = 200
    # Contexts that the explicit algorithms' rates are fitted on.
    fit_contexts: lab.Count = 16_384
    # Training of the twelve full blocks.
    full_block_steps: lab.Count = 3_000
    # Training in the study sine_mlp.
    sine_steps: lab.Count = 12_000
    # Training in the study token_copy.
    copy_steps: lab.Count = 14_000
    # Times the trained layer is repeated.
    roll_out_steps: lab.Count = 50
    # Numbers of training tasks in fixed_task_set.
    task_set_sizes: lab.Distinct[lab.Count] = (128, 512, 2048, 8192)
    # Training in fixed_task_set.
    task_set_steps: lab.Count = 3_000
    # Rows in context in real_data; the table has 442.
    real_contexts: lab.Distinct[Annotated[int, lab.Range(1, 400)]] = (10, 20, 30, 40)
    # Tasks drawn from the real table for each context length.
    real_tasks: Annotated[int, lab.Range(2)] = 4_000


_TASKS = ("search_tasks", "eval_tasks")
_BATCHES = ("batch_size", "deep_batch_size", "curve_tasks", "real_tasks")
_FEW = ("num_seeds", "tied_steps", "untied_steps", "full_block_steps")
_STEPS = ("one_layer_steps", "fit_steps", "sine_steps", "copy_steps", "task_set_steps")
SMOKE = dict(
    **dict.fromkeys(_TASKS, 64),
    **dict.fromkeys(_BATCHES, 16),
    **dict.fromkeys(_STEPS, 4),
    **dict.fromkeys(_FEW, 2),
    closed_form_tasks=256,
    sweep_dims=(3,),
    untied_depths=(2, 5),
    fit_contexts=128,
    roll_out_steps=20,
    task_set_sizes=(16, 32),
    real_contexts=(10, 40),
)

# The authors' notebook: batch 2048 everywhere, 5,000 steps tied, 50,000 untied, 20,000 sine.
PAPER = dict(
    **dict.fromkeys(("batch_size", "deep_batch_size"), 2048),
    **dict.fromkeys(("one_layer_steps", "tied_steps"), 5_000),
    **dict.fromkeys(("untied_steps", "full_block_steps", "task_set_steps"), 50_000),
    num_seeds=5,
    learning_rate_factor=1.0,
    decay=False,
    sweep_dims=(2, 5, 15, 20, 25, 30),
    fit_steps=400,
    sine_steps=20_000,
    copy_steps=10_000,
    task_set_sizes=(128, 256, 512, 1024, 2048, 4096, 8192),
)

paper = lab.Paper(
    "gd_in_context",
    config=Config,
    authors="von Oswald, Niklasson, Randazzo, Sacramento, Mordvintsev, Zhmoginov, Vladymyrov",
    year=2022,
    arxiv="2212.07677",
    smoke=SMOKE,
    paper=PAPER,
    studies=(
        "one_layer",
        "dimensions",
        "roll_out",
        "deep",
        "full_block",
        "out_of_distribution",
        "softmax_heads",
        "layer_norm",
        "distractors",
        "sine_mlp",
        "token_copy",
        "fixed_task_set",
        "real_data",
    ),
    cost={
        "smoke": "about three minutes on two cores, nearly all of it compilation",
        "cpu": "about an hour on two cores",
        "paper": "for a GPU or TPU",
    },
)
