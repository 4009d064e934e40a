"""Multi-headed distillation: clients that exchange answers on public images, and nothing else.

Paper:    Zhmoginov, Sandler, Miller, Kristiansen, Vladymyrov, 2022, arXiv 2211.15774. The abstract;
          losses and settings are recalled (UNVERIFIED), and bands are those of the project.
Command:  python -m experiments.multihead_distillation         (preset cpu)
Cost:     `cost` below; what a run really took stands in its report.
Expected: with skewed labels the last auxiliary head knows far more of all labels than the main head
          does, and than a client alone; the main head loses nothing on its client's own labels.
Known before the bands were fixed: nothing.

Fashion-MNIST at 14 x 14, a tenth of it public and without labels. Accuracy is "shared", over all
labels alike, or "private", over labels as often as the client has them; both are means over
clients.
"""

from typing import Annotated, Literal

from ico import lab


class Config(lab.Config):
    """What a preset chooses."""

    # Populations that are trained, each with its own partition, under one vmap.
    num_seeds: lab.Count = 3
    # Clients, and how many each label mostly belongs to.
    num_clients: Annotated[int, lab.Range(2)] = 8
    primaries: lab.Count = 2
    # Weight of a client's own labels over others (0: all alike).
    skews: lab.Distinct[lab.NonNegative] = (0.0, 10.0, 100.0)
    # Auxiliary heads.
    heads: lab.Distinct[lab.Natural] = (0, 1, 2, 3, 4)
    # Fashion-MNIST at 14 x 14, or the digits of scikit-learn, which need no installation.
    images: Literal["clothes", "digits"] = "clothes"
    # Training images in all, and the share of them that is public.
    num_images: lab.Count = 20_000
    public: Annotated[float, lab.Range(0.01, 0.9)] = 0.1
    # Convolutions and embedding of a client.
    widths: lab.Distinct[lab.Count] = (16, 32)
    dim: lab.Count = 64
    # Training steps, private images and public images of each.
    num_steps: lab.Count = 2_000
    batch_size: lab.Count = 32
    # Steps of each trial of a learning rate; 0: none.
    tuning_steps: lab.Natural = 600
    # Steps after which clients publish themselves anew, or federated averaging averages.
    refresh: lab.Count = 50
    # Images that are tested on.
    test_images: lab.Count = 2_000
    # Tests along a training.
    tests: lab.Count = 20


paper = lab.Paper(
    "multihead_distillation",
    config=Config,
    authors="Zhmoginov, Sandler, Miller, Kristiansen, Vladymyrov",
    year=2022,
    arxiv="2211.15774",
    studies=(
        "heads",
        "skew",
        "topology",
        "targets",
        "heterogeneous",
        "communication",
        "dropout",
    ),
    smoke={
        "num_seeds": 2,
        "num_clients": 4,
        "skews": (0.0, 100.0),
        "heads": (0, 1),
        "images": "digits",
        "num_images": 400,
        "widths": (2,),
        "dim": 4,
        "num_steps": 2,
        "batch_size": 4,
        "tuning_steps": 0,
        "refresh": 1,
        "test_images": 20,
        "tests": 1,
    },
    cost={"cpu": "about an hour on two cores"},
)
