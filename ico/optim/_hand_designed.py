"""Hand-designed optimizers that a new one should be compared with, ready to be tuned."""

from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import optax
from jaxtyping import Array, Float

from ico.optim._registry import make
from ico.optim._with_loss import Optimizer, with_loss


class HandDesigned(NamedTuple):
    """An optimizer without its learning rate.

    Fields:
      name: as `make` knows it.
      learning_rate: the middle of a grid of learning rates to tune over, for small networks.
      settings: its other hyperparameters.
    """

    name: str
    learning_rate: float
    settings: Mapping[str, Any] = {}

    def make(
        self, learning_rate: float | Float[Array, ""] | optax.Schedule
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer with a learning rate, which may be traced, or a schedule."""
        return make(self.name, learning_rate=learning_rate, **self.settings)


HAND_DESIGNED: dict[str, HandDesigned] = {
    "SGD": HandDesigned("sgd", 0.1),
    "momentum": HandDesigned("sgd", 0.03, {"momentum": 0.9}),
    "Adam": HandDesigned("adam", 3e-3),
    "AdamW": HandDesigned("adamw", 3e-3, {"weight_decay": 1e-2}),
    "Lion": HandDesigned("lion", 1e-3),
    "LAMB": HandDesigned("lamb", 3e-2),
    "Muon": HandDesigned("muon", 1e-2),
    "schedule-free AdamW": HandDesigned("schedule_free_adamw", 1e-2),
    # From optax's first estimate of the distance, 1e-6, short trainings would be spent growing it.
    "Prodigy": HandDesigned("prodigy", 1.0, {"estim_lr0": 1e-4, "safeguard_warmup": True}),
    "DoWG": HandDesigned("dowg", 1.0),
}


def on_parts(optimizer: Optimizer, *names: Hashable) -> optax.GradientTransformationExtraArgs:
    """The optimizer on some top-level parts of the parameters; the others stay as they are.

    Fine-tuning of the head alone is `on_parts(optax.adam(1e-3), "head")`.
    """
    return optax.multi_transform(
        {"moved": with_loss(optimizer), "kept": optax.set_to_zero()},
        lambda params: {name: "moved" if name in names else "kept" for name in params},
    )
