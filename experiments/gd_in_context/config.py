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
    """What a preset chooses. The bands are not among it.

    Fields:
      num_seeds: models trained under one vmap, wherever a model is trained.
      search_tasks: tasks that a rate is line-searched on.
      eval_tasks: tasks that losses are compared on; curve_tasks: those of learning curves.
      closed_form_tasks: tasks for the loss of one gradient step.
      batch_size, deep_batch_size: tasks a training step, for one layer on plain tokens and for all
        other models.
      learning_rate_factor: multiplies the authors' rates; decay: a linear decay to zero at the
        end, where theirs stay constant. Both make a short training go further.
      one_layer_steps: one layer, also with softmax, LayerNorm, and for each of sweep_dims.
      tied_steps, untied_steps: models of 2, 5 and 10 layers.
      untied_depths, tied_depths: which depths.
      fit_steps, fit_contexts: L-BFGS steps that fit the explicit algorithms' rates (GD++), and the
        contexts that they are fitted on.
      full_block_steps, sine_steps, copy_steps: the studies of these names.
      roll_out_steps: times the trained layer is repeated.
      task_set_sizes: training tasks in `fixed_task_set`; task_set_steps: its training steps.
      real_contexts: rows in context in `real_data`; real_tasks: tasks drawn for each.
    """

    num_seeds: int = 3
    search_tasks: int = 100_000
    eval_tasks: int = 10_000
    curve_tasks: int = 1_000
    closed_form_tasks: int = 1_000_000
    batch_size: int = 1024
    deep_batch_size: int = 256
    learning_rate_factor: float = 3.0
    decay: bool = True
    one_layer_steps: int = 2_500
    sweep_dims: tuple[int, ...] = (2, 5, 15, 20)
    tied_depths: tuple[int, ...] = (2, 5, 10)
    untied_depths: tuple[int, ...] = (2, 5, 10)
    tied_steps: int = 4_000
    untied_steps: int = 5_000
    fit_steps: int = 200
    fit_contexts: int = 16_384
    full_block_steps: int = 3_000
    sine_steps: int = 12_000
    copy_steps: int = 14_000
    roll_out_steps: int = 50
    task_set_sizes: tuple[int, ...] = (128, 512, 2048, 8192)
    task_set_steps: int = 3_000
    real_contexts: tuple[int, ...] = (10, 20, 30, 40)
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
        "cpu": "one to two hours on two cores",
        "paper": "for a GPU or TPU",
    },
)
