"""Narrowing the Focus: Learned Optimizers for Pretrained Models (Kristiansen et al., 2408.09310).

The optimizer is called L3RS. Networks are pretrained on one half of a data set and fine-tuned on
the other; for each such fine-tuning an optimizer is meta-trained and raced against tuned ones.

Command:  python -m experiments.learned_optimizer           (preset cpu)
Cost:     EXPERIMENT.cost below; what a run really took stands in its report.
Expected: of the paper nothing comparable: its text was not at hand, and its networks are larger.
Bands:    claims.py, fixed before any run.
"""

import dataclasses
from typing import Literal

from experiments.launch import Experiment
from experiments.learned_optimizer.claims import CLAIMS

STUDIES = {
    "meta_train": "Do optimizers learn, and at what price?",
    "in_distribution": "Are they better than tuned hand-designed ones, where they were trained?",
    "new_initialisation": "And from networks pretrained with other seeds?",
    "new_dataset": "And on data that they were not trained on?",
    "longer_horizon": "And for more steps than they were trained for?",
    "ablations": "Which of its parts does it need?",
    "specialisation": "Does an optimizer belong to its task, and a step to its layer?",
    "what_it_learned": "How does it mix and step, layer by layer?",
    "cost": "What does a step cost, and when has meta-training paid?",
}
# The hand-designed optimizers, and what may be left out of L3RS: made in contest.py, learners.py.
BASELINES = (
    "SGD", "momentum", "Adam", "Adam, head alone", "AdamW", "Lion", "LAMB", "Muon",
    "schedule-free AdamW", "Prodigy", "DoWG",
)  # fmt: skip
ABLATIONS = (
    "SGD alone", "RMSprop alone", "an even mix", "one step for all layers", "no time", "no loss",
    "no embedding", "one layer for all", "a cosine", "one step for all horizons", "no fading",
    "no average", "no average, SGD alone", "no average, Adam alone",
)  # fmt: skip
_TASKS = ("digits", "fashion", "glyphs", "glyphs, ViT", "places")


@dataclasses.dataclass(frozen=True)
class Config:
    """What a preset chooses. The bands are not among it."""

    # Fine-tunings: "digits", "fashion", "glyphs", "glyphs, ViT", "places".
    tasks: tuple[str, ...] = ("digits", "fashion", "glyphs")
    # Steps of a fine-tuning.
    horizon: int = 50
    # Further horizons, in times of it.
    longer: tuple[int, ...] = (2, 4, 10)
    # Images a step.
    batch_size: int = 16
    # Pretrained networks that optimizers are trained and tuned on.
    known_networks: int = 4
    # Pretrained networks for the study of new ones alone.
    unseen_networks: int = 20
    # Steps of pretraining.
    pretrain_steps: int = 1_000
    # Images a step of pretraining.
    pretrain_batch: int = 64
    # Peak rate of pretraining.
    pretrain_rate: float = 3e-3
    # Images to pretrain on, at most.
    pool: int = 8_000
    # Width of the MLP.
    mlp_width: int = 128
    # Widths of the convolutions.
    conv_widths: tuple[int, ...] = (16, 32)
    # Drawings of a character with each font.
    glyph_copies: int = 20
    # Height and width of glyphs.
    image_size: int = 14
    # Photographs kept of a set, inside of compiled programs; their height and width ("places").
    photos: int = 8_000
    photo_size: int = 224
    # Images that losses are measured on, at most; an eighth of those trained on, at most.
    test_images: int = 500
    # Outer steps of every meta-training.
    meta_steps: int = 200
    # Shortest and longest training while it learns.
    meta_horizons: tuple[int, int] = (12, 50)
    # Inner steps of a stretch, of estimators that train by stretches.
    truncation: int = 10
    # Trainings side by side; of general optimizers, of all tasks together.
    meta_tasks: int = 9
    # Of `ico.metatrain.Estimator`: backpropagation or evolution strategies, by stretches or not.
    estimator: Literal["unrolled", "truncated", "evolution", "persistent"] = "unrolled"
    # Of held-out losses along whole trainings: their mean, their last tenth, or half of each.
    meta_loss: Literal["mean", "last", "mixed"] = "mixed"
    # Standard deviation of the perturbations of evolution strategies.
    sigma: float = 0.03
    # Meta-trainings of L3RS on each task: the first races, all show how far chance matters.
    meta_draws: int = 3
    # Peak rates of the outer Adam: of L3RS and of its rivals.
    meta_rate: float = 2e-2
    adafac_rate: float = 0.1
    direction_rate: float = 2e-2
    # Learned optimizers beside L3RS.
    rivals: tuple[str, ...] = ("adafac_mlp", "direction_mlp")
    # Whether L3RS that averages no iterates races beside L3RS, which the claims are about.
    without_average: bool = True
    # Hand-designed optimizers; none stands for all (contest.py).
    baselines: tuple[str, ...] = ()
    # Rates that each is tuned over, each twice the one before; with every schedule.
    num_rates: int = 13
    # Runs of every rate and schedule.
    first_runs: int = 2
    # Rates and schedules that go on to the second round.
    second_candidates: int = 5
    # Runs of each there.
    second_runs: int = 8
    # Runs that nothing is tuned on.
    test_runs: int = 40
    # Tests along each of these.
    tests_of_a_run: int = 10
    # Steps of many passes over the images of a fine-tuning, in times of its horizon.
    passes: int = 20
    # Runs at the same time; the memory they take, not their results.
    side_by_side: int = 20
    # What is left out of L3RS, one at a time; none stands for all (learners.py).
    ablations: tuple[str, ...] = ()
    # The task of the ablations.
    ablation_task: str = "digits"

    def contest_fields(self) -> tuple[str, ...]:
        """What the result of a race depends on, beside its entrant."""
        return (
            *self._problem_fields, "num_rates", "first_runs", "second_candidates", "second_runs",
            "test_runs", "tests_of_a_run",
        )  # fmt: skip

    @property
    def _problem_fields(self) -> tuple[str, ...]:
        return (
            "batch_size", "known_networks", "unseen_networks", "pretrain_steps", "pretrain_batch",
            "pretrain_rate", "pool", "mlp_width", "conv_widths", "glyph_copies", "image_size",
            "photos", "photo_size", "test_images",
        )  # fmt: skip

    def problem_settings(self) -> dict:
        """What the problems depend on."""
        return {name: getattr(self, name) for name in self._problem_fields}

    def validate(self) -> None:
        """Raises ValueError, its first word the field, where a setting makes no sense."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(value) is int and value < 1:
                raise ValueError(f"{field.name} must be at least 1, not {value}")
            if isinstance(value, float) and not 0 < value < float("inf"):
                raise ValueError(f"{field.name} must be positive, not {value}")
        if not self.tasks or len(set(self.tasks)) != len(self.tasks):
            raise ValueError(f"tasks must be different and at least one, not {self.tasks}")
        if unknown := [name for name in (*self.tasks, self.ablation_task) if name not in _TASKS]:
            raise ValueError(f"tasks may name {', '.join(map(repr, _TASKS))}, not {unknown}")
        if self.ablation_task not in self.tasks:
            raise ValueError(f"ablation_task must be one of the tasks {self.tasks}")
        for name, known in (("baselines", BASELINES), ("ablations", ABLATIONS)):
            if unknown := [word for word in getattr(self, name) if word not in known]:
                raise ValueError(f"{name} may name {', '.join(map(repr, known))}, not {unknown}")
        if unknown := [r for r in self.rivals if r not in ("adafac_mlp", "direction_mlp")]:
            raise ValueError(f"rivals may name adafac_mlp and direction_mlp, not {unknown}")
        if min(self.longer, default=2) < 2:
            raise ValueError(f"longer must hold numbers from 2 on, not {self.longer}")
        if self.test_runs % self.unseen_networks:
            raise ValueError(f"test_runs must be a multiple of unseen_networks, "
                             f"{self.unseen_networks}")  # fmt: skip
        low, high = self.meta_horizons
        stretches = self.estimator in ("truncated", "persistent")
        if not (self.truncation if stretches else 1) <= low <= high:
            raise ValueError(
                f"meta_horizons must rise, by stretches from the truncation; not {low}, {high}"
            )
        if self.horizon < self.tests_of_a_run:
            raise ValueError(f"horizon must be at least tests_of_a_run, {self.tests_of_a_run}")
        if self.test_runs < 2:
            raise ValueError("test_runs must be at least 2, for intervals")
        if self.image_size % 2 or self.image_size < 8:
            raise ValueError(f"image_size must be even and at least 8, not {self.image_size}")


# Evolution strategies, for a gradient through training takes long to compile.
SMOKE = Config(
    tasks=("digits", "glyphs"), horizon=4, longer=(2,), batch_size=4, known_networks=2,
    unseen_networks=2, pretrain_steps=2, pretrain_batch=4, pool=100, mlp_width=8,
    conv_widths=(2, 4), glyph_copies=1, image_size=8, test_images=16, meta_steps=2,
    meta_horizons=(2, 4), meta_tasks=2, estimator="evolution", meta_draws=1, side_by_side=4,
    rivals=("direction_mlp",), without_average=False, baselines=("Adam",), num_rates=3,
    first_runs=1, second_candidates=2, second_runs=2, test_runs=4, tests_of_a_run=1, passes=5,
    ablations=("one layer for all",),
)  # fmt: skip

# The paper: ResNet-34 from ImageNet to Places, a thousand steps, natural evolution strategies.
PAPER = Config(
    tasks=("places", "glyphs, ViT"), horizon=1_000, longer=(2, 4), batch_size=64,
    known_networks=2, unseen_networks=4,
    pretrain_steps=50_000, pretrain_batch=256, pool=8_000, test_images=2_000, meta_steps=500,
    meta_horizons=(200, 1_000), meta_tasks=8, estimator="evolution", side_by_side=2,
    second_runs=4, test_runs=40, passes=2, ablation_task="glyphs, ViT",
)  # fmt: skip

EXPERIMENT = Experiment(
    name="learned_optimizer",
    title="Narrowing the Focus: Learned Optimizers for Pretrained Models",
    authors="Kristiansen, Sandler, Zhmoginov, Miller, Goyal, Lee, Vladymyrov",
    year=2024,
    arxiv="2408.09310",
    shows="an optimizer that is meta-trained for one fine-tuning, layer by layer, against tuned "
    "hand-designed ones and general learned ones",
    presets={"smoke": SMOKE, "cpu": Config(), "paper": PAPER},
    studies=STUDIES,
    claims=CLAIMS,
    cost={
        "smoke": "a minute on two cores, nearly all of it tracing and compilation",
        "cpu": "two or three hours on two cores",
        "paper": "for a GPU or TPU",
    },
)
