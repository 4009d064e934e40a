"""Optimizers by name: ours, and those of optax that a user would compare them with."""

from collections.abc import Callable

import optax

from ico.optim._adafac_mlp import adafac_mlp
from ico.optim._direction_mlp import direction_mlp
from ico.optim._l3rs import l3rs

_MAKERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adafac_mlp": adafac_mlp,
    "adam": optax.adam,
    "adamw": optax.adamw,
    "direction_mlp": direction_mlp,
    "dowg": optax.contrib.dowg,
    "l3rs": l3rs,
    "lamb": optax.lamb,
    "lion": optax.lion,
    "muon": optax.contrib.muon,
    "prodigy": optax.contrib.prodigy,
    "schedule_free_adamw": optax.contrib.schedule_free_adamw,
    "sgd": optax.sgd,
}


def names() -> tuple[str, ...]:
    """The optimizers that `make` knows."""
    return tuple(_MAKERS)


def make(name: str, **hyperparameters) -> optax.GradientTransformationExtraArgs:
    """An optimizer by its name, such as `make("adamw", learning_rate=1e-3)`.

    Learned ones (l3rs, adafac_mlp, direction_mlp) want `theta`; `ico.optim.load` gives them back
    trained. All take extra arguments, so that `value=loss` may be passed to any. Parameters at
    which to evaluate are those trained, but for schedule_free_adamw
    (`optax.contrib.schedule_free_eval_params`).

    Raises:
      ValueError: an unknown name, or a hyperparameter that the optimizer does not have.
    """
    if name not in _MAKERS:
        raise ValueError(f"optimizers are {', '.join(_MAKERS)}, not {name!r}")
    try:
        return optax.with_extra_args_support(_MAKERS[name](**hyperparameters))
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error
