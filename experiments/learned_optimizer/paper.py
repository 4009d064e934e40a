"""Narrowing the Focus: Learned Optimizers for Pretrained Models (Kristiansen et al., 2408.09310).

An optimizer that is meta-trained for one fine-tuning, layer by layer, against tuned hand-designed
ones and general learned ones.

The optimizer is called L3RS. Networks are pretrained on one half of a data set and fine-tuned on
the other; for each such fine-tuning an optimizer is meta-trained and raced.

Command:  python -m experiments.learned_optimizer           (preset cpu)
Cost:     `paper.cost` below; what a run really took stands in its report.
Expected: no number of the paper's: its text was not at hand, and its networks are larger.
Bands:    beside the claims of each study. The first run, on seed 0, was of L3RS without an average,
          the second, on seed 1 and stopped, of one with it; the published one, on seed 2, is of a
          third design. Claims and bands were fixed before the first run and never changed.

In claims, a loss is the mean test loss at the end of a fine-tuning, in nats, and "the best
hand-designed optimizer" is the one with the least loss on the runs that it was tuned on.
"""

from typing import Annotated, Literal

from experiments.learned_optimizer.contest import BASELINES
from experiments.learned_optimizer.learners import ABLATIONS, RIVALS
from experiments.learned_optimizer.problems import SPECS
from ico import lab

_AtLeastTwo = Annotated[int, lab.Range(2)]


class Config(lab.Config):
    """What a preset chooses. The bands are not among it."""

    # Fine-tunings: "digits", "fashion", "glyphs", "glyphs, ViT", "places".
    tasks: lab.Distinct[str] = ("digits", "fashion", "glyphs")
    horizon: lab.Count = 50  # Steps of a fine-tuning
    longer: tuple[_AtLeastTwo, ...] = (2, 4, 10)  # Longer horizons, as multiples of it
    batch_size: lab.Count = 16  # Images a step
    known_networks: lab.Count = 4  # Pretrained ones that optimizers are meta-trained and tuned on
    unseen_networks: lab.Count = 20  # Pretrained ones for the study of new networks alone
    pretrain_steps: lab.Count = 1_000  # Steps of pretraining
    pretrain_batch: lab.Count = 64  # Images a step of pretraining
    pretrain_rate: lab.Positive = 3e-3  # Largest learning rate of pretraining
    pool: lab.Count = 8_000  # Images to pretrain on, at most
    mlp_width: lab.Count = 128  # Width of the MLP
    conv_widths: tuple[lab.Count, ...] = (16, 32)  # Widths of the convolutions
    glyph_copies: lab.Count = 20  # Drawings of a character with each font
    image_size: Annotated[int, lab.Range(8)] = 14  # Height and width of glyphs
    photos: lab.Count = 8_000  # Photographs of a data set that are kept, in memory ("places")
    photo_size: lab.Count = 224  # Their height and width
    # Images to test on, at most, and to tune by; eight times as many to train on.
    test_images: lab.Count = 500
    meta_steps: lab.Count = 200  # Outer steps of every meta-training
    # Shortest and longest inner training while meta-training.
    meta_horizons: tuple[lab.Count, lab.Count] = (12, 50)
    truncation: lab.Count = 10  # Steps of a truncation window, for estimators that truncate
    meta_tasks: lab.Count = 9  # Inner trainings side by side, for all tasks together
    # Of `ico.metatrain.Estimator`: backpropagation or evolution strategies, truncated or not.
    estimator: Literal["unrolled", "truncated", "evolution", "persistent"] = "unrolled"
    # Of held-out losses along inner trainings: their mean, their last tenth, or half of each.
    meta_loss: Literal["mean", "last", "mixed"] = "mixed"
    sigma: lab.Positive = 0.03  # Standard deviation of the perturbations of evolution strategies
    # Meta-trainings of L3RS on each task: the first races, all show how far chance matters.
    meta_draws: lab.Count = 3
    meta_rate: lab.Positive = 2e-2  # Largest learning rate of the outer Adam, for L3RS
    adafac_rate: lab.Positive = 0.1  # The same for AdafacMLP
    direction_rate: lab.Positive = 2e-2  # The same for the learned direction
    rivals: tuple[str, ...] = tuple(RIVALS)  # Learned optimizers beside L3RS
    # Whether L3RS without averaged iterates races beside L3RS, which the claims are about.
    without_average: bool = True
    baselines: tuple[str, ...] = ()  # Hand-designed optimizers; none stands for all (contest.py)
    # Learning rates that each is tuned over, each twice the one before; with every schedule.
    num_rates: lab.Count = 13
    first_runs: lab.Count = 2  # Runs of every learning rate and schedule in the first round
    second_candidates: lab.Count = 5  # Learning rates and schedules that go on to the second round
    second_runs: lab.Count = 8  # Runs of each there
    test_runs: _AtLeastTwo = 40  # Runs of the test
    tests_of_a_run: lab.Count = 10  # Evaluations along each of these
    passes: lab.Count = 20  # Many passes over the images: steps, as a multiple of the horizon
    side_by_side: lab.Count = 20  # Runs in one compiled call; changes memory, not results
    ablations: tuple[str, ...] = ()  # Of L3RS, one at a time; none stands for all (learners.py)
    ablation_task: str = "digits"  # The task of the ablations

    def check(self) -> None:
        """Raises ValueError, its first word the field, where settings do not fit together."""
        names = {"tasks": SPECS, "baselines": BASELINES, "rivals": RIVALS, "ablations": ABLATIONS}
        for field, known in names.items():
            if unknown := [name for name in getattr(self, field) if name not in known]:
                raise ValueError(f"{field} may name {', '.join(map(repr, known))}, not {unknown}")
        if self.ablation_task not in self.tasks:
            raise ValueError(f"ablation_task must be one of the tasks {self.tasks}")
        if self.test_runs % self.unseen_networks:
            count = self.unseen_networks
            raise ValueError(f"test_runs must be a multiple of unseen_networks, {count}")
        low, high = self.meta_horizons
        truncates = self.estimator in ("truncated", "persistent")
        if not (self.truncation if truncates else 1) <= low <= high:
            raise ValueError(
                "meta_horizons must rise, from the truncation window on where the estimator "
                f"truncates; not {low}, {high}"
            )
        if self.horizon < self.tests_of_a_run:
            raise ValueError(f"horizon must be at least tests_of_a_run, {self.tests_of_a_run}")
        if self.image_size % 2:
            raise ValueError(f"image_size must be even, not {self.image_size}")


SMOKE = {
    **{"tasks": ("digits", "glyphs"), "horizon": 4, "longer": (2,), "batch_size": 4, "passes": 5},
    **{"known_networks": 2, "unseen_networks": 2, "mlp_width": 8, "conv_widths": (2, 4)},
    **{"pretrain_steps": 2, "pretrain_batch": 4, "pool": 100},
    **{"glyph_copies": 1, "image_size": 8, "test_images": 16},
    # Evolution strategies, for a gradient through whole trainings takes long to compile.
    **{"meta_steps": 2, "meta_horizons": (2, 4), "meta_tasks": 2, "estimator": "evolution"},
    **{"meta_draws": 1, "rivals": ("direction_mlp",), "without_average": False},
    **{"baselines": ("Adam",), "num_rates": 3, "ablations": ("one layer for all",)},
    **{"first_runs": 1, "second_candidates": 2, "second_runs": 2, "test_runs": 4},
    **{"tests_of_a_run": 1, "side_by_side": 4},
}
# The paper: ResNet-34 from ImageNet to Places, a thousand steps, natural evolution strategies.
PAPER = {
    **{"tasks": ("places", "glyphs, ViT"), "ablation_task": "glyphs, ViT", "horizon": 1_000},
    **{"longer": (2, 4), "batch_size": 64, "known_networks": 2, "unseen_networks": 4},
    **{"pretrain_steps": 50_000, "pretrain_batch": 256, "test_images": 2_000},
    **{"meta_steps": 500, "meta_horizons": (200, 1_000), "meta_tasks": 8, "estimator": "evolution"},
    **{"second_runs": 4, "passes": 2, "side_by_side": 2},
}

paper = lab.Paper(
    "learned_optimizer",
    config=Config,
    title="Narrowing the Focus: Learned Optimizers for Pretrained Models",
    authors="Kristiansen, Sandler, Zhmoginov, Miller, Goyal, Lee, Vladymyrov",
    year=2024,
    arxiv="2408.09310",
    smoke=SMOKE,
    paper=PAPER,
    studies=(
        *("meta_train", "in_distribution", "generalisation"),
        *("ablations", "specialisation", "what_it_learned", "cost"),
    ),
    cost={
        "smoke": "a minute on two cores, nearly all of it tracing and compilation",
        "cpu": "two or three hours on two cores",
        "paper": "for a GPU or TPU",
    },
)
