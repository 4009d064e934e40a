"""HyperTransformer: a transformer reads a few labelled images and writes a network for them.

Paper:    Zhmoginov, Sandler, Vladymyrov, 2022, arXiv 2201.04182. Layout and defaults are those of
          the authors' code; the tables of the body were not consulted, so claims are sentences of
          the abstract, and bands those of the project.
Command:  python -m experiments.hypertransformer         (preset cpu)
Cost:     `cost` below; what a run really took stands in its report.
Expected: for networks of 4 channels all written layers beat a written last layer; for larger ones
          the last layer is enough; unlabelled images help.
Known before the bands were fixed: pilots of the project on part of Omniglot, one seed and 5 to 14
          thousand steps, had "logits only" ahead at 4 channels (79.7 against 77.3 per cent); so
          had one of four thousand steps on these letters (60.2 against 57.6), in which learned
          weights under the written ones did not help (53.2).

Everything is judged on letters drawn with the fonts inside the pinned Matplotlib, so that every
machine has the same classes; scripts that models are tested on stand in no training set. What the
fonts of Noto and Omniglot's handwriting say, where they are installed, stands beside it.
"""

from typing import Annotated, Literal

from ico import lab

DRAWINGS = 20  # of each letter
Several = Annotated[int, lab.Range(2)]


class Config(lab.Config):
    """What a preset chooses."""

    # Models of each kind that are trained, under one vmap.
    num_seeds: lab.Count = 3
    # What models are trained and tested on: letters drawn with fonts, or Omniglot's handwriting.
    dataset: Literal["letters", "omniglot"] = "letters"
    # Height and width of the images.
    image_size: Annotated[int, lab.Range(8)] = 16
    # Channels of the network that is written (or learned, by the rivals).
    channels: lab.Distinct[lab.Count] = (4, 8)
    # Convolutions of that network.
    num_convs: lab.Count = 4
    # Layers of attention of the transformer that writes it.
    num_blocks: lab.Count = 3
    # Classes of an episode.
    ways: lab.Distinct[Several] = (5,)
    # Labelled images of each class.
    shots: lab.Distinct[lab.Count] = (1, 5)
    # Images of each class without a label, with one labelled image and the fewest channels.
    unlabeled: lab.Distinct[lab.Natural] = (0, 4, 9)
    # Training steps of every model.
    num_steps: lab.Count = 10_000
    # Steps of each of the three trials that a kind of model has for its learning rate; 0: none.
    tuning_steps: lab.Natural = 3_000
    # Episodes of a training step.
    tasks_per_step: lab.Count = 4
    # Queries of each class.
    queries: lab.Count = 8
    # Episodes that models are tested on, of each set of classes.
    test_episodes: Annotated[int, lab.Range(2)] = 600
    # A folder with Omniglot's zips, to test on handwriting as well. Empty: none, or TFDS's Omniglot
    # where `dataset` says so.
    omniglot_dir: str = ""

    def check(self) -> None:
        """Raises ValueError, its first word the field, for sizes that do not go together."""
        least = 2**self.num_convs
        if self.image_size < least:
            raise ValueError(f"image_size must be at least {least} to be halved so often")
        shown = max(*self.shots, 1 + max(self.unlabeled), 3) + self.queries
        if shown > DRAWINGS:
            raise ValueError(f"queries must be fewer: {shown} images a class, of {DRAWINGS} drawn")


paper = lab.Paper(
    "hypertransformer",
    config=Config,
    authors="Zhmoginov, Sandler, Vladymyrov",
    year=2022,
    arxiv="2201.04182",
    studies=(
        "supervised",
        "semi_supervised",
        "maml",
        "allocation",
        "ablations",
        "kernels",
        "attention_is_prototype",
        "tiny_deploy",
    ),
    smoke={
        "num_seeds": 2,
        "image_size": 8,
        "channels": (2,),
        "num_convs": 1,
        "num_blocks": 1,
        "shots": (1,),
        "unlabeled": (0, 1),
        "num_steps": 4,
        "tuning_steps": 0,
        "tasks_per_step": 2,
        "queries": 2,
        "test_episodes": 4,
    },
    cost={"cpu": "about three hours on two cores", "paper": "days on one GPU (never run)"},
    paper={
        "dataset": "omniglot",
        "image_size": 28,
        "channels": (2, 4, 6, 8),
        "ways": (5, 20),
        "num_steps": 4_000_000,
        "tuning_steps": 100_000,
        "tasks_per_step": 1,
        "test_episodes": 1_024 * 16,
    },
)
