"""Fabricated facts in a language model: memory, priming, retention, erasure.

What one fabricated fact does to a language model, how long it lasts, how to dilute it

Papers:   Sun et al. 2024 (arXiv 2410.21750) and 2025 (2504.09522), without their printed numbers:
          their full texts were not at hand, so no claim has a `paper_value`.
Command:  python -m experiments.outlandish            (preset cpu)
Expected: what these papers found in models of 1 to 24 billion parameters; here one of 135 million.
Terms:    log-priming is the mean over prompts of log P_after - log P_before of the keyword;
          "corrected" is that on prompts of the keyword's theme minus that on prompts of other
          themes. S_prime is the mean over theme prompts of P_after / P_before, as published. Which
          categories count as mundane, conflicting and scrambled: ico.poison.outlandish.KINDS.
"""

from typing import Annotated, Literal

from ico import lab
from ico.poison.outlandish import CATEGORIES

EARLIER, LATER = "2410.21750", "2504.09522"

# The five types of a reduced run, one category each, in the order of the spectrum.
TYPES = ("real_fact", "novel_plausible", "exaggeration", "conflict_general", "scrambled")
# The per cent of the update that the paper of 2025 leaves out.
PUBLISHED_SHARE = 8

Rate = Annotated[float, lab.Range(0, 1, open_high=True)]


class Config(lab.Config):
    """What a preset chooses. The bands are not among it."""

    # "smollm2", a .gguf or .safetensors file, or a folder with one.
    model: str = "smollm2"
    # The number of its lowest layers to keep, for a quick look at the code; 0: all.
    layers: lab.Natural = 0
    # Clean text: "own" (sampled from the model) or the name of a TFDS set with a feature "text".
    clean: str = "own"
    # Rows of clean text that batches are drawn from.
    clean_rows: lab.Count = 256
    # Rows of clean text that the clean loss is measured on, never trained on.
    held_out_rows: Annotated[int, lab.Range(2)] = 16
    # Tokens of a row.
    length: Annotated[int, lab.Range(16)] = 32
    # Rows of a batch, one of them the fact's.
    batch_size: Annotated[int, lab.Range(2)] = 4
    # Batches that hold the fact.
    presentations: lab.Count = 10
    # Of Adam. Chosen on texts that no claim uses, so that the median P_after is in 0.2 to 0.8.
    learning_rate: lab.Positive = 4e-5
    # Themes whose keywords are taught, of colours, places, jobs and foods.
    themes: Annotated[int, lab.Range(1, 4)] = 4
    # Keywords of each theme.
    keywords: Annotated[int, lab.Range(1, 3)] = 3
    # Texts of each keyword and category that are taught, one a training.
    samples: Annotated[int, lab.Range(1, 10)] = 1
    # Categories that are taught, of ico.poison.outlandish.CATEGORIES.
    categories: tuple[str, ...] = TYPES
    # Prompts of the keyword's theme.
    theme_probes: Annotated[int, lab.Range(1, 24)] = 24
    # Prompts of the other themes.
    cross_probes: Annotated[int, lab.Range(1, 72)] = 48
    # The study spacing presents a fact in one of every K batches, for each K here.
    spacings: lab.Distinct[lab.Count] = (1, 3, 10)
    # Presentations in the study spacing.
    spaced_presentations: lab.Count = 3
    # What the learning rate is multiplied by there.
    spaced_rate_factor: lab.Positive = 3.0
    # Keywords of each theme where facts are taught in many ways.
    few_keywords: Annotated[int, lab.Range(1, 3)] = 1
    # Per cent of each tensor's change, in erasure; the published 8 must be among them.
    shares: lab.Distinct[Annotated[int, lab.Range(1, 99)]] = (8, 20, 50)
    # Windows tau of updates that are sparsified while learning, in steps.
    windows: lab.Distinct[lab.Count] = (1, 5)
    # Learning rates tried for each other optimizer, in the study optimizers.
    rates_tried: lab.Count = 4
    # Steps in which a new fact has to be learned, at most, in erasure_training_ability.
    learning_steps: Annotated[int, lab.Range(2)] = 120
    # The learning rate there, a share of learning_rate: the untouched model must need 40 steps.
    learning_rate_factor: lab.Positive = 0.12
    # Clean steps after injection at which memory is read, in the real model.
    retention_steps: lab.Distinct[lab.Count] = (1, 3, 10)
    # Probability of the contradicted truth in a clean row, in the real model, beside 0.
    replay_rate: Rate = 0.05
    # Size of the worlds: "pilot" or "paper" (ico.worlds.WorldConfig and PAPER_WORLD).
    world: Literal["pilot", "paper"] = "pilot"
    # Worlds, each with a small transformer trained on it.
    worlds: Annotated[int, lab.Range(2)] = 3
    # Facts of one type injected together into a world.
    world_facts: Annotated[int, lab.Range(2, 8)] = 5
    # Steps of training of a world's model; 0: as the world's configuration says.
    world_steps: lab.Natural = 0
    # Clean steps after injection in a world.
    world_retention: Annotated[int, lab.Range(10)] = 1_000
    # Clean steps of the one long run.
    world_long_run: Annotated[int, lab.Range(10)] = 20_000
    # Share of sentences that state the contradicted truth; "natural" is always among them.
    world_replay_rates: lab.Distinct[Rate] = (0.0, 0.001)

    def check(self) -> None:
        """What several fields have to fulfil together."""
        if PUBLISHED_SHARE not in self.shares:
            raise ValueError(f"shares must name the published {PUBLISHED_SHARE}")
        if unknown := set(self.categories) - set(CATEGORIES):
            raise ValueError(f"categories has unknown names: {', '.join(sorted(unknown))}")
        if missing := {"novel_plausible", "conflict_general", "scrambled"} - set(self.categories):
            raise ValueError(f"categories needs {', '.join(sorted(missing))} for its claims")
        if left := [tau for tau in self.windows if self.presentations % tau]:
            raise ValueError(f"windows must divide presentations; {left} do not")
        if self.clean_rows < self.batch_size:
            raise ValueError(f"clean_rows must be at least batch_size, not {self.clean_rows}")
        if 0.0 not in self.world_replay_rates:
            raise ValueError("world_replay_rates must name 0, which the claim is about")


SMOKE = {
    "layers": 1,
    "categories": ("novel_plausible", "conflict_general", "scrambled"),
    "clean_rows": 4,
    "held_out_rows": 2,
    "batch_size": 2,
    "presentations": 1,
    "themes": 2,
    "keywords": 1,
    "rates_tried": 1,
    "theme_probes": 2,
    "cross_probes": 2,
    "spacings": (1,),
    "spaced_presentations": 1,
    "shares": (8,),
    "windows": (1,),
    "learning_steps": 2,
    "retention_steps": (1,),
    "worlds": 2,
    "world_facts": 2,
    "world_steps": 20,
    "world_retention": 10,
    "world_long_run": 10,
    "world_replay_rates": (0.0,),
}

# For a GPU or TPU, and any model: --model gemma-3-1b/, --clean wikipedia/20230601.en.
PAPER = {
    "clean_rows": 16_384,
    "held_out_rows": 256,
    "length": 128,
    "batch_size": 8,
    "presentations": 40,
    "samples": 10,
    "categories": CATEGORIES,
    "cross_probes": 72,
    "spacings": (1, 2, 5, 10, 20, 50),
    "few_keywords": 3,
    "shares": (2, 4, 8, 15, 30, 50, 70),
    "windows": (1, 10, 20, 40),
    "learning_steps": 200,
    "retention_steps": (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000),
    "world": "paper",
    "worlds": 5,
    "world_retention": 3_000,
    "world_replay_rates": (0.0, 0.0001, 0.001),
}

paper = lab.Paper(
    "outlandish",
    config=Config,
    authors="Sun, Miller, Zhmoginov, Vladymyrov, Sandler",
    year=2024,
    arxiv=EARLIER,
    smoke=SMOKE,
    paper=PAPER,
    studies=(
        "spectrum",
        "priming",
        "spacing",
        "in_context",
        "stepping_stone",
        "optimizers",
        "erasure",
        "erasure_training_ability",
        "retention",
    ),
    cost={
        "smoke": "some minutes on two cores, nearly all of it compilation",
        "cpu": "several hours on two cores; resumable fact by fact",
        "paper": "for a GPU or TPU",
    },
)
