"""Optimizers by name: ours, and those of optax that a user would compare them with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from ico.optim._adafac_mlp import adafac_mlp, adafac_mlp_init
from ico.optim._direction_mlp import direction_mlp, direction_mlp_init
from ico.optim._l3rs import L3RS


def _l3rs(theta, num_steps=1000, learning_rate=1.0, **settings):
    return l3rs_config(settings).optimizer(theta, num_steps, learning_rate)


_MAKERS: dict[str, Callable[..., optax.GradientTransformation]] = {
    "adafac_mlp": adafac_mlp,
    "adam": optax.adam,
    "adamw": optax.adamw,
    "direction_mlp": direction_mlp,
    "dowg": optax.contrib.dowg,
    "l3rs": _l3rs,
    "lamb": optax.lamb,
    "lion": optax.lion,
    "muon": optax.contrib.muon,
    "prodigy": optax.contrib.prodigy,
    "schedule_free_adamw": optax.contrib.schedule_free_adamw,
    "schedule_free_sgd": optax.contrib.schedule_free_sgd,
    "sgd": optax.sgd,
}


def names() -> tuple[str, ...]:
    """The optimizers that `make` knows."""
    return tuple(_MAKERS)


def make(name: str, **hyperparameters) -> optax.GradientTransformationExtraArgs:
    """An optimizer by its name, such as `make("adamw", learning_rate=1e-3)`.

    Learned ones (l3rs, adafac_mlp, direction_mlp) need `theta`; `ico.optim.load` gives them back
    trained. "l3rs" takes `num_steps`, `learning_rate` and the fields of `L3RS`; with `average=True`
    the others default to those of `L3RS.averaged()`. All take extra arguments, so that `value=loss`
    may be passed to any. Evaluate at `ico.optim.eval_params(state, params)`.

    Raises:
      ValueError: an unknown name, or a hyperparameter that the optimizer does not have.
    """
    if name not in _MAKERS:
        raise ValueError(f"optimizers are {', '.join(_MAKERS)}, not {name!r}")
    try:
        return optax.with_extra_args_support(_MAKERS[name](**hyperparameters))
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


def l3rs_config(settings: dict[str, Any]) -> L3RS:
    """The configuration of "l3rs" by its settings."""
    return L3RS.averaged(**settings) if settings.get("average") else L3RS(**settings)


class LearnedOptimizer(NamedTuple):
    """A learned optimizer before its training: how theta starts, and what is made of it.

    Fields:
      name: as `make` knows it.
      settings: further arguments of the optimizer; they must fit into JSON if theta is saved.
      init: (key, parameters or their shapes) -> theta.
      has_horizon: whether it takes `num_steps`.
    """

    name: str
    settings: dict[str, Any]
    init: Callable[[Any, Any], Any]
    has_horizon: bool = False

    def build(self, theta, num_steps) -> optax.GradientTransformationExtraArgs:
        """The optimizer for a training of `num_steps`, which may be traced."""
        horizon = {"num_steps": num_steps} if self.has_horizon else {}
        return make(self.name, theta=theta, **self.settings, **horizon)


def learned(name: str, **settings) -> LearnedOptimizer:
    """A learned optimizer to be meta-trained: "l3rs", "adafac_mlp" or "direction_mlp".

    Args:
      name: which.
      **settings: of "l3rs", the fields of `L3RS`, defaults as in `make`; of the others, arguments
        of the optimizer, and `hidden`, the widths of the network's hidden layers.

    Raises:
      ValueError: an optimizer that learns nothing, or an unknown setting.
    """
    inits = {"adafac_mlp": adafac_mlp_init, "direction_mlp": direction_mlp_init}
    if name == "l3rs":
        try:
            config = l3rs_config(settings)
        except TypeError as error:
            raise ValueError(f"l3rs: {error}") from error
        return LearnedOptimizer(name, settings, config.init, has_horizon=True)
    if name not in inits:
        raise ValueError(f"learned optimizers are {', '.join((*inits, 'l3rs'))}, not {name!r}")
    at_start = {"hidden": settings.pop("hidden")} if "hidden" in settings else {}
    return LearnedOptimizer(name, settings, lambda key, _: inits[name](key, **at_start))
