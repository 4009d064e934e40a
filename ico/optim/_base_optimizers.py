"""The base optimizers that L3RS knows by name."""

import optax

from ico.optim._with_loss import Optimizer, with_loss

# Directions of ascent: the sign is part of their weight, which saves a pass over each. All can be
# differentiated where gradients are zero, Adam by its `eps_root`.
_ASCENTS = {
    "sgd": optax.identity(),
    "momentum": optax.trace(0.9),
    "adam": optax.scale_by_adam(eps_root=1e-16),
    "lion": optax.scale_by_lion(),
    "rmsprop": optax.scale_by_rms(0.999, 1e-16, bias_correction=True),
}


def base_optimizers() -> dict[str, optax.GradientTransformation]:
    """The base optimizers that have a name. Only their directions matter, not their lengths.

    "rmsprop" is Adam without momentum: its mean is corrected for its start.
    """
    return {name: optax.chain(ascent, optax.scale(-1)) for name, ascent in _ASCENTS.items()}


def signed_direction(
    base: Optimizer | str,
) -> tuple[optax.GradientTransformationExtraArgs, float]:
    """A base optimizer's transform, and the sign that makes its outputs updates to be added.

    Raises:
      ValueError: an unknown name.
    """
    if not isinstance(base, str):
        return with_loss(base), 1.0
    if base not in _ASCENTS:
        raise ValueError(f"base optimizers are {', '.join(_ASCENTS)}, not {base!r}")
    return with_loss(_ASCENTS[base]), -1.0
