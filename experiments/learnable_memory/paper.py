"""Learnable memory: a few tokens in every layer adapt a vision transformer that stays frozen.

Paper:    Sandler, Zhmoginov, Vladymyrov, Jackson, 2022, arXiv 2203.15243. The mechanism and who
          sees whom are verified; of its accuracies a table is known, its learning rates are not.
Command:  python -m experiments.learnable_memory         (preset cpu)
Cost:     `cost` below; what a run really took stands in its report.
Expected: the head alone is worst, a class token helps, five cells of memory nearly close the gap to
          fine-tuning everything, more than ten are no better; new tasks leave the old ones alone.
Known before the bands were fixed: the paper's table (head 46 to 86%, one cell closes 40 to 110% of
          the gap to full fine-tuning), and a pilot on a backbone of 600 steps, seed 99, that chose
          the grid of learning rates (digits: head 49.5, class token 52.1, 5 cells 48.3).

The backbone learns hundreds of letters and seven kinds of clothes; targets are digits, the three
kinds of clothes left out, and two scripts it has never seen. Everything trained on a target has the
same few images, and each way of fine-tuning its own best of as many learning rates.
"""

from typing import Annotated

from ico import lab

DRAWINGS = 40  # of each letter


class Config(lab.Config):
    """What a preset chooses."""

    # Backbones that are trained, each of which everything is tried on.
    num_seeds: lab.Count = 3
    # Side of a patch of the 16 x 16 images, width, blocks and heads of the transformer.
    patch: lab.Count = 4
    dim: lab.Count = 64
    depth: lab.Count = 4
    num_heads: lab.Count = 4
    # What the backbone learns, beside letters: seven kinds of Fashion-MNIST's clothes.
    clothes: bool = True
    # Training steps of the backbone, and images of each.
    pretraining_steps: lab.Count = 4_000
    pretraining_batch: lab.Count = 128
    # Targets to adapt to: "digits", "clothes", or scripts of `ico.data.letters`.
    targets: lab.Distinct[str] = ("digits", "clothes", "ARMENIAN", "HEBREW")
    # Images of each class of a target that are trained on; as many again choose the learning rate.
    per_class: Annotated[int, lab.Range(1, 10)] = 10
    # Images of each target that are tested on, at most.
    test_images: lab.Count = 400
    # Training steps on a target, and images of each.
    num_steps: lab.Count = 300
    batch_size: lab.Count = 32
    # Numbers of memory tokens a layer.
    cells: lab.Distinct[lab.Count] = (1, 2, 5, 10, 20)
    # Learning rates that every way of fine-tuning is tried at.
    rates: lab.Distinct[lab.Positive] = (0.01, 0.03, 0.1, 0.3)
    # Sequences that linear attention with a learned state is trained and tested on.
    sequences: Annotated[int, lab.Range(2)] = 2_000

    def check(self) -> None:
        """Raises ValueError, its first word the field, for sizes that do not go together."""
        if len(self.targets) < 2:
            raise ValueError("targets must be two at least: one is learned on top of another")
        if 16 % self.patch:
            raise ValueError(f"patch must divide 16, not {self.patch}")
        if self.dim % self.num_heads:
            raise ValueError(f"num_heads must divide {self.dim}, not {self.num_heads}")


paper = lab.Paper(
    "learnable_memory",
    config=Config,
    authors="Sandler, Zhmoginov, Vladymyrov, Jackson",
    year=2022,
    arxiv="2203.15243",
    studies=(
        "adaptation",
        "cells",
        "multi_task",
        "attention_to_memory",
        "memory_in_linear_attention",
        "adamix",
    ),
    smoke={
        "num_seeds": 2,
        "patch": 8,
        "dim": 8,
        "depth": 1,
        "num_heads": 2,
        "clothes": False,
        "pretraining_steps": 2,
        "pretraining_batch": 4,
        "targets": ("digits", "HEBREW"),
        "per_class": 1,
        "test_images": 20,
        "num_steps": 2,
        "batch_size": 4,
        "cells": (1, 5),
        "rates": (0.1, 0.3),
        "sequences": 8,
    },
    cost={"cpu": "about eighty minutes on two cores"},
)
