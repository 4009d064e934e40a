"""Optimizers by name: ours, and those of optax that a user would compare them with."""

from collections.abc import Callable
from typing import Any, NamedTuple

import optax

from ico.optim._adafac_mlp import adafac_mlp, adafac_mlp_init
from ico.optim._direction_mlp import direction_mlp, direction_mlp_init
from ico.optim._l3rs import l3rs, l3rs_init

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
    trained. All take extra arguments, so that `value=loss` may be passed to any. The parameters to
    use and to test are `ico.optim.eval_params(state, params)`.

    Raises:
      ValueError: an unknown name, or a hyperparameter that the optimizer does not have.
    """
    if name not in _MAKERS:
        raise ValueError(f"optimizers are {', '.join(_MAKERS)}, not {name!r}")
    try:
        return optax.with_extra_args_support(_MAKERS[name](**hyperparameters))
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from error


class LearnedOptimizer(NamedTuple):
    """A learned optimizer that has not learned yet: how theta starts, and what is made of it.

    Fields:
      name: as `make` knows it.
      settings: further arguments of the optimizer; JSON has a form for them, if theta is saved.
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


def learned(name: str, *, universal: bool = False, **settings) -> LearnedOptimizer:
    """A learned optimizer to be meta-trained: "l3rs", "adafac_mlp" or "direction_mlp".

    Args:
      name: which.
      universal: of "l3rs", whether one embedding serves all layers, of any model.
      **settings: arguments of the optimizer (base_optimizers, average, anneal ...), and
        those of its theta's start (hidden, embed_dim, log_step).

    Raises:
      ValueError: an optimizer that learns nothing.
    """
    inits = {
        "adafac_mlp": adafac_mlp_init,
        "direction_mlp": direction_mlp_init,
        "l3rs": l3rs_init,
    }
    if name not in inits:
        raise ValueError(f"learned optimizers are {', '.join(inits)}, not {name!r}")
    of_start = {key: settings.pop(key) for key in ("hidden", "embed_dim", "log_step")
                if key in settings}  # fmt: skip
    if name != "l3rs":
        return LearnedOptimizer(name, settings, lambda key, _: inits[name](key, **of_start))
    of_both = {key: settings[key] for key in ("decays", "group", "average") if key in settings}
    num_bases = len(settings.get("base_optimizers") or ("sgd", "adam"))

    def init(key, params):
        params = None if universal else params
        return l3rs_init(key, params, num_bases=num_bases, **of_start, **of_both)

    return LearnedOptimizer(name, settings, init, has_horizon=True)
