"""Uncovering mesa-optimization algorithms in Transformers.

Next-token predictors learn to optimize in their forward pass; a layer that solves the problem
outright.

Paper:    von Oswald et al., arXiv 2309.05858; with the layer and the recall of its successor,
          MesaNet (von Oswald et al., arXiv 2506.05233).
Command:  python -m experiments.mesa_optimization           (preset cpu)
Cost:     `cost` below; what a run really took stands in its report.
Expected: on constructed tokens 0.894 with one linear layer, 0.430 with two, 0.216 with six, 0.190
          with one mesa layer (the authors' result files, as are all values given as the paper's).

Losses of sequences are means over positions of 1/2 |error|^2, unless a position is named. Bands
were fixed before the published run; README.md says what was added after earlier ones.
"""

import dataclasses
from typing import Annotated, Literal, get_args

from ico import lab
from ico.models import MixerKind

SUCCESSOR = "2506.05233"
System = Literal["linear", "partial", "nonlinear", "contracting", "fixed"]
FullModel = Literal["softmax, linear", "softmax", "softmax, mesa"]
_OneKind = Literal["linear", "gated linear", "delta", "gated delta", "mesa", "mesa_cg"]
TextModel = Literal[_OneKind, "softmax", "softmax, linear", "softmax, mesa"]
Several = Annotated[int, lab.Range(2)]  # what intervals are taken over


class Config(lab.Config):
    """What a preset chooses."""

    num_seeds: lab.Count = 3  # Models trained under one vmap for every claim
    dim: Annotated[int, lab.Range(2)] = 10  # Width of states; even, for systems observed in part
    # Positions of a sequence; enough for probes of earlier vectors.
    length: Annotated[int, lab.Range(8)] = 50
    batch_size: lab.Count = 64  # Sequences a step
    # Sequences that losses are measured on; probes are fitted on equally many others.
    eval_sequences: Several = 2_000
    depths: lab.Distinct[lab.Count] = (1, 2, 4, 6)  # Layers of models on constructed tokens, rising
    constructed_steps: lab.Count = 3_000  # Steps on constructed tokens
    constructed_learning_rate: lab.Positive = 1e-3  # Peak learning rate of linear layers there
    mesa_learning_rate: lab.Positive = 1e-2  # Peak learning rate of mesa layers there
    # Steps of CompressedAlg's scalars, and of the coefficients of Proposition 2.
    scalar_steps: lab.Count = 1_000
    full_depth: lab.Count = 7  # Layers of full models, except for the hybrid's two
    full_steps: lab.Count = 3_000  # Steps of deep full models on the linear system
    hybrid_steps: lab.Count = 3_000  # Steps of the hybrid there
    other_steps: lab.Count = 1_000  # Steps of all full models on all other systems
    long_steps: lab.Count = 1_500  # Steps on long sequences
    other_batch: lab.Count = 32  # Sequences a step on all other systems
    full_learning_rate: lab.Positive = 8e-4  # Peak learning rate of full models
    hybrid_learning_rate: lab.Positive = 8e-4  # Peak learning rate of the hybrid
    # Systems compared; contracting and fixed ones are controls, for the hybrid alone.
    systems: lab.Distinct[System] = get_args(System)
    full_models: lab.Distinct[FullModel] = get_args(FullModel)  # Full models on the linear system
    # Full models on systems observed in part and on nonlinear ones.
    other_models: lab.Distinct[FullModel] = ("softmax, linear", "softmax, mesa")
    # Positions, from 0, that probes are fitted at.
    probe_positions: lab.Distinct[lab.Natural] = (5, 10, 20, 25, 30, 35, 40, 45)
    # Inputs of the systems whose softmax layers are replaced.
    linearisation_dims: lab.Distinct[lab.Count] = (4, 10)
    linearisation_layers: lab.Count = 3  # Softmax layers there
    linearisation_steps: lab.Count = 2_000  # Steps of the softmax models there
    # Steps of every linear layer fitted in place of a softmax one.
    linear_fit_steps: lab.Count = 500
    # Pairs of a regression; sequences for it are three times as long and a prefix.
    few_shot_pairs: Annotated[int, lab.Range(10)] = 68
    few_shot_models: lab.Distinct[FullModel] = ("softmax, mesa",)  # Models for it
    few_shot_tests: Several = 500  # Regressions that losses are measured on
    long_batch: lab.Count = 16  # Long sequences a step
    tuning_steps: lab.Count = 400  # Steps of tuned tokens
    tuning_learning_rate: lab.Positive = 1e-2  # Learning rate of tuned tokens
    # Layers compared in recall.
    recall_mixers: lab.Distinct[MixerKind] = ("softmax", "gated_linear", "delta", "mesa")
    recall_keys: lab.Distinct[lab.Count] = (64,)  # Keys of the noisy tasks, from few to many
    # Tokens of which two make a key in the fuzzy tasks; none leaves these out.
    fuzzy_keys: tuple[lab.Count, ...] = ()
    # Lengths that accuracy is measured at, in times of the trained one; the first is one.
    recall_lengths: lab.Distinct[lab.Count] = (1, 2, 4)
    recall_slots: lab.Count = 64  # Slots of a sequence
    recall_dim: lab.Count = 64  # Width of the models
    recall_head_dim: lab.Count = 16  # Width of their two heads
    recall_steps: lab.Count = 3_000  # Steps of each
    recall_batch: lab.Count = 16  # Sequences a step
    # Peak learning rates, of which every layer gets the one that is best for it.
    recall_learning_rates: lab.Distinct[lab.Positive] = (3e-3, 1e-2)
    recall_tests: Several = 500  # Sequences that accuracy is measured on
    # English: python_docs (Debian's python3-doc) or pydoc_topics (in CPython, short).
    text: Literal["python_docs", "pydoc_topics"] = "python_docs"
    # Byte-pair tokens; at least 300, for all bytes.
    vocab_size: Annotated[int, lab.Range(300, 2**31 - 1)] = 1_024
    # Language models compared.
    text_models: lab.Distinct[TextModel] = (
        *("linear", "delta", "gated delta", "mesa"),
        *("softmax", "softmax, linear", "softmax, mesa"),
    )
    text_dim: lab.Count = 128  # Width of language models, which have four heads
    text_length: lab.Count = 256  # Tokens of a row
    text_batch: lab.Count = 8  # Rows a step
    text_steps: lab.Count = 1_000  # Steps of each
    text_learning_rate: lab.Positive = 3e-3  # Peak learning rate
    held_out_rows: Several = 1_024  # Rows held out, at most

    def models_on(self, system: str) -> tuple[str, ...]:
        """The full models that are trained on a system."""
        if system not in self.systems:
            return ()
        several = {"linear": self.full_models}
        several |= dict.fromkeys(("partial", "nonlinear"), self.other_models)
        return several.get(system, ("softmax, mesa",))

    def check(self) -> None:
        """What the types do not say."""
        if list(self.depths) != sorted(self.depths) or len(self.depths) < 2:
            raise ValueError(f"depths must rise, two of them or more, not {self.depths}")
        if self.recall_lengths[0] != 1:
            raise ValueError(f"recall_lengths must begin with 1, not {self.recall_lengths}")
        if max(self.probe_positions) >= self.length:
            raise ValueError(f"probe_positions must lie below length {self.length}")
        for field, divisor in (("dim", 2), ("text_dim", 8)):
            if getattr(self, field) % divisor:
                raise ValueError(f"{field} must be a multiple of {divisor}")


_STEPS = [field.name for field in dataclasses.fields(Config) if field.name.endswith("_steps")]
SMOKE = {
    **dict.fromkeys(_STEPS, 2),
    **dict(num_seeds=2, dim=4, length=16, batch_size=4, eval_sequences=16),
    **dict(depths=(1, 2), full_depth=2, other_batch=4),
    **dict(systems=("linear", "partial", "nonlinear", "fixed")),
    **dict(full_models=("softmax, linear", "softmax, mesa"), other_models=("softmax, mesa",)),
    **dict(probe_positions=(5, 10), linearisation_dims=(4,), linearisation_layers=2),
    **dict(few_shot_pairs=10, few_shot_tests=8, long_batch=2),
    **dict(recall_mixers=("gated_linear", "mesa"), recall_keys=(4,), recall_lengths=(1,)),
    **dict(recall_learning_rates=(1e-3,), recall_slots=12, recall_dim=16, recall_head_dim=8),
    **dict(recall_batch=4, recall_tests=8),
    **dict(text="pydoc_topics", vocab_size=300, text_models=("linear", "softmax, mesa")),
    **dict(text_dim=32, text_length=32, text_batch=4, held_out_rows=16),
}
# The paper: batch 256, 5,000 to 15,000 steps on constructed tokens at 1e-4 (mesa 4e-4); 10,000 for
# full models at 8e-4 (hybrid 20,000 at 3e-4), 40,000 on nonlinear systems.
PAPER = {
    **dict(num_seeds=5, batch_size=256, eval_sequences=10_000, scalar_steps=5_000),
    **dict(constructed_steps=15_000, constructed_learning_rate=1e-4, mesa_learning_rate=4e-4),
    **dict(full_steps=10_000, hybrid_steps=20_000, hybrid_learning_rate=3e-4),
    **dict(other_steps=40_000, other_batch=256, other_models=get_args(FullModel)),
    **dict(linearisation_dims=(4, 6, 10, 20, 40, 60), linearisation_steps=10_000),
    **dict(linear_fit_steps=5_000, long_steps=40_000, long_batch=128, few_shot_tests=5_000),
    **dict(few_shot_models=("softmax, mesa", "softmax", "softmax, linear")),
    **dict(tuning_steps=5_000, tuning_learning_rate=1e-3),
    **dict(recall_mixers=get_args(MixerKind), recall_keys=(16, 64), fuzzy_keys=(8, 16)),
    **dict(recall_slots=96, recall_learning_rates=(1e-3, 3e-3, 1e-2), recall_dim=128),
    **dict(recall_steps=10_000, recall_batch=128),
    **dict(text_models=get_args(TextModel), text_dim=512, text_batch=128, text_steps=10_000),
    **dict(vocab_size=8_192),
}

paper = lab.Paper(
    "mesa_optimization",
    config=Config,
    authors="von Oswald, Schlegel, Meulemans, Kobayashi, Niklasson, Zucchet, Scherrer, Miller, "
    "Sandler, Agüera y Arcas, Vladymyrov, Pascanu, Sacramento",
    year=2023,
    arxiv="2309.05858",
    smoke=SMOKE,
    paper=PAPER,
    studies=(
        *("one_layer_gd", "deep", "token_binding", "probes", "linearisation"),
        *("model_comparison", "few_shot", "recall", "language"),
    ),
    cost={
        "smoke": "a few minutes on two cores, nearly all of it compilation",
        "cpu": "some three hours on two cores",
        "paper": "for a GPU or TPU",
    },
)
