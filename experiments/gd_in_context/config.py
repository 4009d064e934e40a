"""Transformers learn in-context by gradient descent (von Oswald et al., arXiv 2212.07677).

Command:  python -m experiments.gd_in_context            (preset cpu)
Cost:     EXPERIMENT.cost below; what a run really took stands in its report.
Expected: a trained linear self-attention layer at a loss of 0.206, that of one gradient step.
Bands:    claims.py, fixed before any run.
"""

import dataclasses

from experiments.gd_in_context.claims import CLAIMS
from experiments.launch import Experiment

STUDIES = {
    "one_layer": "Does one trained linear self-attention layer do one step of gradient descent?",
    "dimensions": "Does the match hold for other sizes, N = d?",
    "roll_out": "Does the trained layer, repeated, keep descending as gradient descent does?",
    "deep": "What do 2, 5 and 10 layers learn: gradient descent or GD++?",
    "full_block": "Does a twelve-block transformer with heads and MLPs do better than GD++?",
    "out_of_distribution": "Do layer and gradient descent agree on tasks never trained on?",
    "softmax_heads": "How much is lost with softmax attention, with one head and with two?",
    "layer_norm": "What does LayerNorm change?",
    "distractors": "What do random labels in the context do to either?",
    "sine_mlp": "With an MLP below, is attention a gradient step on learned features?",
    "token_copy": "Can a model build the paired tokens from alternating ones by itself?",
    "fixed_task_set": "How many training tasks does it take?",
    "real_data": "And on real data, never trained on?",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a preset chooses. The bands are not among it."""

    # Models trained under one vmap, wherever a model is trained.
    num_seeds: int = 3
    # Tasks that a rate is line-searched on.
    search_tasks: int = 100_000
    # Tasks that losses are compared on.
    eval_tasks: int = 10_000
    # Tasks of learning curves.
    curve_tasks: int = 1_000
    # Tasks for the loss of one gradient step.
    closed_form_tasks: int = 1_000_000
    # Tasks a training step, for one layer on plain tokens.
    batch_size: int = 1024
    # Tasks a training step, for all other models.
    deep_batch_size: int = 256
    # Multiplies the authors' learning rates, so that a short training goes further.
    learning_rate_factor: float = 3.0
    # A linear decay to zero at the end, where the authors' rates stay constant.
    decay: bool = True
    # Training of one layer, also with softmax, LayerNorm, and for each of sweep_dims.
    one_layer_steps: int = 2_500
    # Sizes N = d that the study dimensions adds to 10.
    sweep_dims: tuple[int, ...] = (2, 5, 15, 20)
    # Depths of models with tied layers.
    tied_depths: tuple[int, ...] = (2, 5, 10)
    # Depths of models with untied layers.
    untied_depths: tuple[int, ...] = (2, 5, 10)
    # Training of tied models.
    tied_steps: int = 4_000
    # Training of untied models.
    untied_steps: int = 5_000
    # L-BFGS steps that fit the explicit algorithms' rates (GD++).
    fit_steps: int = 200
    # Contexts that the explicit algorithms' rates are fitted on.
    fit_contexts: int = 16_384
    # Training of the twelve full blocks.
    full_block_steps: int = 3_000
    # Training in the study sine_mlp.
    sine_steps: int = 12_000
    # Training in the study token_copy.
    copy_steps: int = 14_000
    # Times the trained layer is repeated.
    roll_out_steps: int = 50
    # Numbers of training tasks in fixed_task_set.
    task_set_sizes: tuple[int, ...] = (128, 512, 2048, 8192)
    # Training in fixed_task_set.
    task_set_steps: int = 3_000
    # Rows in context in real_data.
    real_contexts: tuple[int, ...] = (10, 20, 30, 40)
    # Tasks drawn from the real table for each context length.
    real_tasks: int = 4_000

    def validate(self) -> None:
        """Raises ValueError, its first word the field, where a size makes no sense."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            values = value if isinstance(value, tuple) else (value,)
            if not values:
                raise ValueError(f"{field.name} must name at least one")
            if field.name == "learning_rate_factor":
                if not 0 < value < float("inf"):
                    raise ValueError(f"learning_rate_factor must be positive, not {value}")
            elif field.name != "decay" and any(v < 1 for v in values):
                raise ValueError(f"{field.name} must be at least 1, not {value}")
            if len(set(values)) != len(values):
                raise ValueError(f"{field.name} names a value twice: {value}")
        if self.closed_form_tasks < 16:
            raise ValueError(f"closed_form_tasks must be at least 16, not {self.closed_form_tasks}")
        if max(self.real_contexts) > 400:
            raise ValueError("real_contexts must be at most 400 of the table's 442 rows")
        if self.eval_tasks < 2 or self.real_tasks < 2:
            raise ValueError("eval_tasks and real_tasks must be at least 2, for intervals")


SMOKE = Config(
    num_seeds=2,
    search_tasks=64,
    eval_tasks=64,
    curve_tasks=16,
    closed_form_tasks=256,
    batch_size=16,
    deep_batch_size=16,
    one_layer_steps=4,
    sweep_dims=(3,),
    tied_depths=(2, 5, 10),
    untied_depths=(2, 5),
    tied_steps=2,
    untied_steps=2,
    fit_steps=4,
    fit_contexts=128,
    full_block_steps=2,
    sine_steps=4,
    copy_steps=4,
    roll_out_steps=20,
    task_set_sizes=(16, 32),
    task_set_steps=4,
    real_contexts=(10, 40),
    real_tasks=16,
)

# The authors' notebook: batch 2048 everywhere, 5,000 steps tied, 50,000 untied, 20,000 sine.
PAPER = Config(
    num_seeds=5,
    batch_size=2048,
    deep_batch_size=2048,
    learning_rate_factor=1.0,
    decay=False,
    one_layer_steps=5_000,
    sweep_dims=(2, 5, 15, 20, 25, 30),
    untied_depths=(2, 5, 10),
    tied_steps=5_000,
    untied_steps=50_000,
    fit_steps=400,
    full_block_steps=50_000,
    sine_steps=20_000,
    copy_steps=10_000,
    task_set_sizes=(128, 256, 512, 1024, 2048, 4096, 8192),
    task_set_steps=50_000,
)

EXPERIMENT = Experiment(
    name="gd_in_context",
    title="Transformers learn in-context by gradient descent",
    authors="von Oswald, Niklasson, Randazzo, Sacramento, Mordvintsev, Zhmoginov, Vladymyrov",
    year=2022,
    arxiv="2212.07677",
    shows="trained linear self-attention does gradient descent in its forward pass",
    presets={"smoke": SMOKE, "cpu": Config(), "paper": PAPER},
    studies=STUDIES,
    claims=CLAIMS,
    cost={
        "smoke": "about three minutes on two cores, nearly all of it compilation",
        "cpu": "about an hour on two cores",
        "paper": "for a GPU or TPU",
    },
)
