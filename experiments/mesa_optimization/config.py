"""Uncovering mesa-optimization algorithms in Transformers (von Oswald et al., arXiv 2309.05858).

With the layer and the recall of its successor, MesaNet (von Oswald et al., arXiv 2506.05233).

Command:  python -m experiments.mesa_optimization           (preset cpu)
Cost:     EXPERIMENT.cost below; what a run really took stands in its report.
Expected: on constructed tokens 0.894 with one linear layer, 0.430 with two, 0.216 with six, 0.190
          with one mesa layer (means over 50 positions of 1/2 |error|^2; the authors' result files).
Bands:    claims.py, fixed before the published run.
"""

import dataclasses

from experiments.launch import Experiment
from experiments.mesa_optimization.claims import CLAIMS

STUDIES = {
    "one_layer_gd": "Is one linear layer one gradient step?",
    "deep": "What do more layers add, what describes them, and what does one mesa layer do?",
    "token_binding": "Does the first layer of a full model build the tokens that the others need?",
    "probes": "Are targets and preconditioned inputs read off better, layer by layer?",
    "linearisation": "Can softmax layers be replaced by linear ones?",
    "few_shot": "Do models trained on dynamics learn regressions from pairs?",
    "model_comparison": "Which full model is best, on three systems and two controls?",
    "recall": "How much do layers of one size recall?",
    "language": "And how well do they predict English?",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a preset chooses. The bands are not among it."""

    # Models trained under one vmap for every claim.
    num_seeds: int = 3
    # Width of states.
    dim: int = 10
    # Positions of a sequence.
    length: int = 50
    # Sequences a step.
    batch_size: int = 64
    # Sequences that losses are measured on, and as many that probes are fitted on.
    eval_sequences: int = 2_000
    # Layers of models on constructed tokens.
    depths: tuple[int, ...] = (1, 2, 4, 6)
    # Steps on constructed tokens.
    constructed_steps: int = 3_000
    # Peak rate of linear layers there.
    constructed_learning_rate: float = 1e-3
    # Peak rate of mesa layers there.
    mesa_learning_rate: float = 1e-2
    # Steps of CompressedAlg's scalars, and of the coefficients of Proposition 2.
    scalar_steps: int = 1_000
    # Layers of full models, but for the hybrid's two.
    full_depth: int = 7
    # Steps of deep full models on the linear system.
    full_steps: int = 3_000
    # Steps of the hybrid there.
    hybrid_steps: int = 3_000
    # Steps of all full models on all other systems.
    other_steps: int = 1_000
    # Steps on long sequences.
    long_steps: int = 1_500
    # Sequences a step on all other systems.
    other_batch: int = 32
    # Peak rate of full models.
    full_learning_rate: float = 8e-4
    # Peak rate of the hybrid.
    hybrid_learning_rate: float = 8e-4
    # Systems compared; contracting and fixed ones are controls, for the hybrid alone.
    systems: tuple[str, ...] = ("linear", "partial", "nonlinear", "contracting", "fixed")
    # Full models on the linear system.
    full_models: tuple[str, ...] = ("softmax, linear", "softmax", "softmax, mesa")
    # Full models on systems observed in part and on nonlinear ones.
    other_models: tuple[str, ...] = ("softmax, linear", "softmax, mesa")
    # Positions, from 0, that probes are fitted at.
    probe_positions: tuple[int, ...] = (5, 10, 20, 25, 30, 35, 40, 45)
    # Inputs of the systems whose softmax layers are replaced.
    linearisation_dims: tuple[int, ...] = (4, 10)
    # Softmax layers there.
    linearisation_layers: int = 3
    # Steps of the softmax models there.
    linearisation_steps: int = 2_000
    # Steps of every linear layer fitted in place of a softmax one.
    linear_fit_steps: int = 500
    # Pairs of a regression; sequences for it are three times as long and a prefix.
    few_shot_pairs: int = 68
    # Models for it; claims are about the first.
    few_shot_models: tuple[str, ...] = ("softmax, mesa",)
    # Regressions that losses are measured on.
    few_shot_tests: int = 500
    # Long sequences a step.
    long_batch: int = 16
    # Steps of tuned tokens.
    tuning_steps: int = 400
    # Rate of tuned tokens.
    tuning_learning_rate: float = 1e-2
    # Layers compared in recall.
    recall_mixers: tuple[str, ...] = ("softmax", "gated_linear", "delta", "mesa")
    # Keys of the noisy tasks, from few to many.
    recall_keys: tuple[int, ...] = (64,)
    # Tokens of which two make a key in the fuzzy tasks; none leaves these out.
    fuzzy_keys: tuple[int, ...] = ()
    # Lengths that accuracy is measured at, in times of the trained one; the first is one.
    recall_lengths: tuple[int, ...] = (1, 2, 4)
    # Slots of a sequence.
    recall_slots: int = 64
    # Width of the models.
    recall_dim: int = 64
    # Width of their two heads.
    recall_head_dim: int = 16
    # Steps of each.
    recall_steps: int = 3_000
    # Sequences a step.
    recall_batch: int = 16
    # Peak rates, of which every layer gets the one that is best for it.
    recall_learning_rates: tuple[float, ...] = (3e-3, 1e-2)
    # Sequences that accuracy is measured on.
    recall_tests: int = 500
    # English: python_docs (Debian's python3-doc) or pydoc_topics (in CPython, short).
    text: str = "python_docs"
    # Byte-pair tokens.
    vocab_size: int = 1_024
    # Language models compared.
    text_models: tuple[str, ...] = (
        "linear", "delta", "gated delta", "mesa", "softmax", "softmax, linear", "softmax, mesa",
    )  # fmt: skip
    # Width of language models.
    text_dim: int = 128
    # Tokens of a row.
    text_length: int = 256
    # Rows a step.
    text_batch: int = 8
    # Steps of each.
    text_steps: int = 1_000
    # Peak rate.
    text_learning_rate: float = 3e-3
    # Rows held out, at most.
    held_out_rows: int = 1_024

    def models_on(self, system: str) -> tuple[str, ...]:
        """The full models that are trained on a system."""
        if system not in self.systems:
            return ()
        return {"linear": self.full_models, "partial": self.other_models,
                "nonlinear": self.other_models}.get(system, ("softmax, mesa",))  # fmt: skip

    def validate(self) -> None:
        """Raises ValueError, its first word the field, where a setting makes no sense."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, int) and value < 1:
                raise ValueError(f"{field.name} must be at least 1, not {value}")
            if isinstance(value, float) and not 0 < value < float("inf"):
                raise ValueError(f"{field.name} must be positive, not {value}")
            if isinstance(value, tuple) and not value and field.name != "fuzzy_keys":
                raise ValueError(f"{field.name} must not be empty")
        for name in ("eval_sequences", "few_shot_tests", "recall_tests", "held_out_rows"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, for intervals")
        if self.length < 8:
            raise ValueError(f"length must be at least 8, for probes of lags; not {self.length}")
        if list(self.depths) != sorted(set(self.depths)) or min(self.depths) < 1:
            raise ValueError(f"depths must be different and rise, not {self.depths}")
        if len(self.depths) < 2:
            raise ValueError(f"depths must be two or more, to be compared; not {self.depths}")
        if self.dim % 2:
            raise ValueError(f"dim must be even, for systems observed in part; not {self.dim}")
        if self.recall_lengths[0] != 1:
            raise ValueError(f"recall_lengths must begin with 1, not {self.recall_lengths}")
        if self.few_shot_pairs < 10:
            raise ValueError(f"few_shot_pairs must be at least 10, not {self.few_shot_pairs}")
        known = ("softmax, linear", "softmax", "softmax, mesa")
        for name in ("full_models", "other_models", "few_shot_models"):
            if unknown := [model for model in getattr(self, name) if model not in known]:
                raise ValueError(f"{name} may name {', '.join(map(repr, known))}, not {unknown}")
        layers = ("softmax", "linear", "gated_linear", "delta", "gated_delta", "mesa",
                  "gated_mesa", "mesa_cg")  # fmt: skip
        texts = ("linear", "gated linear", "delta", "gated delta", "mesa", "mesa_cg", "softmax",
                 "softmax, linear", "softmax, mesa")  # fmt: skip
        for name, known in (("recall_mixers", layers), ("text_models", texts)):
            if unknown := [item for item in getattr(self, name) if item not in known]:
                raise ValueError(f"{name} may name {', '.join(map(repr, known))}, not {unknown}")
        if not 0 <= min(self.probe_positions) < self.length:
            raise ValueError(f"probe_positions must lie below length {self.length}")
        systems = ("linear", "partial", "nonlinear", "contracting", "fixed")
        if unknown := [name for name in self.systems if name not in systems]:
            raise ValueError(f"systems may name {', '.join(systems)}, not {unknown}")
        if self.text not in ("python_docs", "pydoc_topics"):
            raise ValueError(f"text must be python_docs or pydoc_topics, not {self.text!r}")
        if not 300 <= self.vocab_size < 2**31:
            raise ValueError(
                f"vocab_size must be at least 300, for all bytes; not {self.vocab_size}"
            )
        if self.text_dim % 8:
            raise ValueError(
                f"text_dim must be a multiple of 8, for four heads; not {self.text_dim}"
            )


SMOKE = Config(
    num_seeds=2, dim=4, length=16, batch_size=4, eval_sequences=16, depths=(1, 2),
    constructed_steps=2, scalar_steps=2, full_depth=2, full_steps=2, hybrid_steps=2,
    other_steps=2, other_batch=4, long_steps=2,
    systems=("linear", "partial", "nonlinear", "fixed"),
    full_models=("softmax, linear", "softmax, mesa"),
    other_models=("softmax, mesa",),
    probe_positions=(5, 10), linearisation_dims=(4,), linearisation_layers=2,
    linearisation_steps=2, linear_fit_steps=2, few_shot_pairs=10,
    few_shot_models=("softmax, mesa",), few_shot_tests=8, long_batch=2, tuning_steps=2,
    recall_mixers=("gated_linear", "mesa"), recall_keys=(4,), fuzzy_keys=(),
    recall_lengths=(1,), recall_learning_rates=(1e-3,),
    recall_slots=12, recall_dim=16, recall_head_dim=8, recall_steps=2, recall_batch=4,
    recall_tests=8, text="pydoc_topics", vocab_size=300,
    text_models=("linear", "softmax, mesa"), text_dim=32, text_length=32,
    text_batch=4, text_steps=2, held_out_rows=16,
)  # fmt: skip

# The paper: batch 256, 5,000 to 15,000 steps on constructed tokens at 1e-4 (mesa 4e-4); 10,000 for
# full models at 8e-4 (hybrid 20,000 at 3e-4), 40,000 on nonlinear systems.
PAPER = Config(
    num_seeds=5, batch_size=256, eval_sequences=10_000, constructed_steps=15_000,
    constructed_learning_rate=1e-4, mesa_learning_rate=4e-4, scalar_steps=5_000,
    full_steps=10_000, hybrid_steps=20_000, other_steps=40_000, long_steps=40_000, other_batch=256,
    hybrid_learning_rate=3e-4,
    other_models=("softmax, linear", "softmax", "softmax, mesa"),
    linearisation_dims=(4, 6, 10, 20, 40, 60), linearisation_steps=10_000, linear_fit_steps=5_000,
    few_shot_models=("softmax, mesa", "softmax", "softmax, linear"), few_shot_tests=5_000,
    long_batch=128, tuning_steps=5_000, tuning_learning_rate=1e-3,
    recall_mixers=("softmax", "linear", "gated_linear", "delta", "gated_delta", "mesa",
                   "gated_mesa", "mesa_cg"),
    recall_keys=(16, 64), fuzzy_keys=(8, 16), recall_slots=96,
    recall_learning_rates=(1e-3, 3e-3, 1e-2), recall_dim=128, recall_steps=10_000, recall_batch=128,
    text_models=("linear", "gated linear", "delta", "gated delta", "mesa", "mesa_cg", "softmax",
                 "softmax, linear", "softmax, mesa"),
    text_dim=512, text_batch=128, text_steps=10_000, vocab_size=8_192,
)  # fmt: skip

EXPERIMENT = Experiment(
    name="mesa_optimization",
    title="Uncovering mesa-optimization algorithms in Transformers",
    authors="von Oswald, Schlegel, Meulemans, Kobayashi, Niklasson, Zucchet, Scherrer, Miller, "
    "Sandler, Agüera y Arcas, Vladymyrov, Pascanu, Sacramento",
    year=2023,
    arxiv="2309.05858",
    shows="next-token predictors learn to optimize in their forward pass; a layer that solves the "
    "problem outright",
    presets={"smoke": SMOKE, "cpu": Config(), "paper": PAPER},
    studies=STUDIES,
    claims=CLAIMS,
    cost={
        "smoke": "a few minutes on two cores, nearly all of it compilation",
        "cpu": "some three hours on two cores",
        "paper": "for a GPU or TPU",
    },
)
