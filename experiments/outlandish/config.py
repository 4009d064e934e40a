"""Fabricated facts in a language model: Sun et al. 2024 (arXiv 2410.21750) and 2025 (2504.09522).

Command:  python -m experiments.outlandish            (preset cpu)
Cost:     EXPERIMENT.cost below; what a run really took stands in its report.
Expected: what these papers found in models of 1 to 24 billion parameters; here one of 135 million.
Bands:    claims.py, fixed before any run. Which categories count as mundane, conflicting and
          scrambled: ico.poison.outlandish.KINDS.
"""

import dataclasses
from typing import Literal

from experiments.launch import Experiment
from experiments.outlandish.claims import CLAIMS

STUDIES = {
    "spectrum": "How likely is the keyword before learning, by category of text?",
    "priming": "What does learning one fact do to unrelated prompts, and what predicts it?",
    "spacing": "Do a few presentations far apart do the same?",
    "in_context": "And if the fact stands in the prompt instead of the weights?",
    "stepping_stone": "Do clauses that lead up to the keyword take the surprise, and the priming?",
    "optimizers": "Does it depend on the optimizer, and does dropping the top of the update?",
    "erasure": "Can memory or priming be taken out of the weights, and at what price?",
    "erasure_training_ability": "Does the model still learn after erasure?",
    "retention": "How long do facts of each kind last, in the real model and in a small world?",
}

# The five types of a reduced run, one category each, in the order of the spectrum.
TYPES = ("real_fact", "novel_plausible", "exaggeration", "conflict_general", "scrambled")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a preset chooses. The bands are not among it."""

    # "smollm2", a .gguf or .safetensors file, or a folder with one.
    model: str = "smollm2"
    # Only the first so many layers of it, for a quick look at the code; 0: all.
    layers: int = 0
    # Clean text: "own" (sampled from the model) or the name of a TFDS set with a feature "text".
    clean: str = "own"
    # Rows of clean text that batches are drawn from.
    clean_rows: int = 256
    # Rows of clean text that the clean loss is measured on, never trained on.
    held_out_rows: int = 16
    # Tokens of a row.
    length: int = 32
    # Rows of a batch, one of them the fact's.
    batch_size: int = 4
    # Batches that hold the fact.
    presentations: int = 10
    # Of Adam. Chosen on texts that no claim uses, so that the median P_after is in 0.2 to 0.8.
    learning_rate: float = 4e-5
    # Themes whose keywords are taught, of colours, places, jobs and foods.
    themes: int = 4
    # Keywords of each theme.
    keywords: int = 3
    # Texts of each keyword and category that are taught, one a run.
    samples: int = 1
    # Categories that are taught, of ico.poison.outlandish.CATEGORIES; novel_plausible,
    # conflict_general and scrambled must be among them.
    categories: tuple[str, ...] = TYPES
    # Prompts of the keyword's theme.
    theme_probes: int = 24
    # Prompts of the other themes.
    cross_probes: int = 48
    # The study spacing presents a fact in one of every so many batches.
    spacings: tuple[int, ...] = (1, 3, 10)
    # Presentations in the study spacing.
    spaced_presentations: int = 3
    # The rate is multiplied with this there, for there are fewer presentations.
    spaced_rate_factor: float = 3.0
    # Keywords of each theme in the studies spacing, optimizers and erasure_training_ability, for
    # windows and the choice of arm in erasure, and for replay in the real model.
    few_keywords: int = 1
    # Per cent of each tensor's change, in erasure; the published 8 must be among them.
    shares: tuple[int, ...] = (8, 20, 50)
    # Windows tau of updates that are sparsified while learning, in steps.
    windows: tuple[int, ...] = (1, 5)
    # Rates tried for each other optimizer, in the study optimizers.
    rates_tried: int = 4
    # Steps in which a new fact has to be learned, at most, in erasure_training_ability.
    learning_steps: int = 120
    # The rate there, as a share of learning_rate: slow, for the claim wants 40 steps and more of
    # the untouched model. Lowered once, by that model's steps alone.
    learning_rate_factor: float = 0.12
    # Clean steps after injection at which memory is read, in the real model.
    retention_steps: tuple[int, ...] = (1, 3, 10)
    # Probability of the contradicted truth in a clean row, in the real model, beside 0.
    replay_rate: float = 0.05
    # Size of the worlds: "pilot" or "paper" (ico.poison.WorldConfig and PAPER_WORLD).
    world: Literal["pilot", "paper"] = "pilot"
    # Worlds, each with a small transformer of its own.
    worlds: int = 3
    # Facts of one type injected jointly into a world.
    world_facts: int = 5
    # Steps of training of a world's model; 0: the world's own number.
    world_steps: int = 0
    # Clean steps after injection in a world.
    world_retention: int = 1_000
    # Clean steps of the one long run.
    world_long_run: int = 20_000
    # Share of sentences that repeat the contradicted truth; "natural" is always among them.
    world_replay_rates: tuple[float, ...] = (0.0, 0.001)

    def validate(self) -> None:
        """Raises ValueError, its first word the field, where a setting makes no sense."""
        from ico.poison.outlandish import CATEGORIES

        least = {"themes": 1, "rates_tried": 1, "keywords": 1, "few_keywords": 1, "samples": 1,
                 "theme_probes": 1, "cross_probes": 1, "presentations": 1,
                 "spaced_presentations": 1, "length": 16,
                 "batch_size": 2, "worlds": 2, "world_facts": 2, "held_out_rows": 2,
                 "learning_steps": 2, "world_retention": 10, "world_steps": 0, "layers": 0,
                 "world_long_run": 10}  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} must be at least {low}, not {getattr(self, name)}")
        most = {"world_facts": 8, "themes": 4, "keywords": 3, "few_keywords": 3, "samples": 10,
                "theme_probes": 24, "cross_probes": 72}  # fmt: skip
        for name, high in most.items():
            if getattr(self, name) > high:
                raise ValueError(f"{name} must be at most {high}, not {getattr(self, name)}")
        for name in ("learning_rate", "learning_rate_factor", "spaced_rate_factor"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("spacings", "shares", "windows", "retention_steps"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) < len(values):
                raise ValueError(f"{name} must name different positive numbers, not {values}")
        if max(self.shares) > 99 or 8 not in self.shares:
            raise ValueError("shares must be per cent below 100, the published 8 among them")
        if unknown := set(self.categories) - set(CATEGORIES):
            raise ValueError(f"categories has unknown names: {', '.join(sorted(unknown))}")
        if missing := {"novel_plausible", "conflict_general", "scrambled"} - set(self.categories):
            raise ValueError(f"categories needs {', '.join(sorted(missing))} for its claims")
        if left := [tau for tau in self.windows if self.presentations % tau]:
            raise ValueError(
                f"windows must divide presentations ({self.presentations}), or the last steps "
                f"would pass as they are; not {left}"
            )
        if self.clean_rows < self.batch_size:
            raise ValueError(f"clean_rows must be at least batch_size, not {self.clean_rows}")
        for rate in (self.replay_rate, *self.world_replay_rates):
            if not 0 <= rate < 1:
                raise ValueError(f"replay_rate and world_replay_rates must lie in [0, 1): {rate}")
        if 0.0 not in self.world_replay_rates:
            raise ValueError("world_replay_rates must name 0, which the claim is about")


SMOKE = Config(
    layers=1,
    categories=("novel_plausible", "conflict_general", "scrambled"),
    clean_rows=4,
    held_out_rows=2,
    length=32,
    batch_size=2,
    presentations=1,
    themes=2,
    keywords=1,
    rates_tried=1,
    theme_probes=2,
    cross_probes=2,
    spacings=(1,),
    spaced_presentations=1,
    shares=(8,),
    windows=(1,),
    learning_steps=2,
    retention_steps=(1,),
    worlds=2,
    world_facts=2,
    world_steps=20,
    world_retention=10,
    world_long_run=10,
    world_replay_rates=(0.0,),
)

# For a GPU or TPU, and any model: --model gemma-3-1b/, --clean wikipedia/20230601.en.
PAPER = Config(
    clean_rows=16_384,
    held_out_rows=256,
    length=128,
    batch_size=8,
    presentations=40,
    samples=10,
    categories=(
        "real_fact", "succinct_fact", "novel_plausible", "unusual_plausible", "exaggeration",
        "fiction", "impossible_cause", "conflict_general", "conflict_entity", "wrong_category",
        "scrambled",
    ),
    cross_probes=72,
    spacings=(1, 2, 5, 10, 20, 50),
    few_keywords=3,
    shares=(2, 4, 8, 15, 30, 50, 70),
    windows=(1, 10, 20, 40),
    learning_steps=200,
    retention_steps=(1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000),
    world="paper",
    worlds=5,
    world_retention=3_000,
    world_replay_rates=(0.0, 0.0001, 0.001),
)  # fmt: skip

EXPERIMENT = Experiment(
    name="outlandish",
    title="Fabricated facts in a language model: memory, priming, retention, erasure",
    authors="Sun, Miller, Zhmoginov, Vladymyrov, Sandler",
    year=2024,
    arxiv="2410.21750",
    shows="what one fabricated fact does to a language model, how long it lasts, how to dilute it",
    presets={"smoke": SMOKE, "cpu": Config(), "paper": PAPER},
    studies=STUDIES,
    claims=CLAIMS,
    cost={
        "smoke": "some minutes on two cores, nearly all of it compilation",
        "cpu": "several hours on two cores; resumable fact by fact",
        "paper": "for a GPU or TPU",
    },
)
