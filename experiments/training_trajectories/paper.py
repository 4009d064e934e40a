"""Training trajectories: mini-batches are parabolas, and averaging iterates is a learning rate.

With trainable weight averaging (2205.13104) and selective prediction by training dynamics
(2205.13532), which read the same trajectories.

Paper:    Sandler, Zhmoginov, Vladymyrov, Miller, 2023, arXiv 2301.02312. Its body was not
          consulted: claims are the sentences of the abstract, bands are those of the project.
Command:  python -m experiments.training_trajectories      (preset cpu)
Cost:     `cost` below; what a run really took stands in its report.
Expected: a batch's loss along its gradient is a parabola (R^2 above 0.97); the mean of two iterates
          has a lower loss than the last one; a schedule does what an average does.
Bands:    beside the claims in each study's file, fixed before the first `cpu` run. Learning rates
          of the two networks and their sizes were chosen in pilots with another seed.

Everything is trained by plain SGD, for which the theory is exact; what the abstract's networks were
trained with (momentum 0.9) is from a secondary source.
"""

from typing import Annotated, Literal

from ico import lab

Several = Annotated[int, lab.Range(2)]


class Config(lab.Config):
    """What a preset chooses."""

    # Models trained under one vmap for every claim.
    num_seeds: lab.Count = 8
    # What the loss of a mini-batch is looked at on ...
    images: Literal["clothes", "digits", "ImageNet"] = "clothes"
    # ... by residual networks of this kind.
    network: Literal["small", "ResNet-34", "ResNet-50"] = "small"
    # Training images of that set.
    num_images: Several = 4_000
    # Training steps on them.
    num_steps: Annotated[int, lab.Range(8)] = 1_500
    # Images a step.
    batch_size: Several = 32
    # Learning rate.
    learning_rate: lab.Positive = 0.1
    # Steps after which losses along lines are looked at.
    look_at: lab.Distinct[lab.Count] = (100, 500, 1_500)
    # Mini-batches at each of them.
    num_batches: Several = 16
    # Whether to look at networks of other widths, depths and normalisations as well.
    regimes: bool = True
    # Epochs of training on digits; averages, their rivals and selective prediction use these.
    epochs: Annotated[int, lab.Range(8)] = 40
    # Training images of digits; a batch is 16 of them.
    num_digits: Annotated[int, lab.Range(32, 1_000)] = 640
    # Learning rates that every method is tuned over, on validation images.
    digit_rates: lab.Distinct[lab.Positive] = (0.05, 0.1, 0.2, 0.4)
    # Share of the digits' training labels that are drawn anew.
    label_noise: lab.Share = 0.1
    # Distances between the two iterates that are averaged, in epochs.
    gaps: lab.Distinct[lab.Count] = (1, 2, 5, 10, 20)


paper = lab.Paper(
    "training_trajectories",
    config=Config,
    authors="Sandler, Zhmoginov, Vladymyrov, Miller",
    year=2023,
    arxiv="2301.02312",
    studies=(
        "quadratic_batches",
        "one_step",
        "stationary_distance",
        "averaging_equivalence",
        "two_point",
        "trained_average",
        "selective",
    ),
    smoke={
        "num_seeds": 2,
        "images": "digits",
        "num_images": 64,
        "num_steps": 16,
        "batch_size": 8,
        "look_at": (12, 16),
        "num_batches": 2,
        "regimes": False,
        "epochs": 8,
        "num_digits": 32,
        "digit_rates": (0.1, 0.2),
        "gaps": (1, 2),
    },
    cost={"cpu": "about half an hour on two cores", "paper": "days on one GPU (never run)"},
    paper={
        "num_seeds": 1,
        "images": "ImageNet",
        "network": "ResNet-50",
        "num_images": 100_000,
        "num_steps": 100_000,
        "batch_size": 256,
        "look_at": (1_000, 10_000, 100_000),
    },
)
