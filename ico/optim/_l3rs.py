"""L3RS: a learned mix of optimizers and a learned learning rate, group by group of parameters.

"Narrowing the Focus: Learned Optimizers for Pretrained Models" (Kristiansen et al. 2024, arXiv
2408.09310).

Dimension key: G groups of parameters (layers), P base optimizers, Q quantities (loss, gradient,
weights, update), R decay rates, E width of the embedding, O outputs of the network.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Num

from ico.optim._averaging import Coefficients, averaging_by
from ico.optim._base_optimizers import signed_direction
from ico.optim._by_group import (
    Group,
    check_floating,
    groups_of,
    in_float32,
)
from ico.optim._l3rs_network import (
    NUM_QUANTITIES,
    TINY,
    check_theta,
    corrected,
    means_before_update,
    means_with_update,
    network_outputs,
    num_features,
    num_outputs,
)
from ico.optim._network import network_init
from ico.optim._outliers import keep_if, mean_products, safe_gradient
from ico.optim._with_loss import Optimizer

PyTree = Any
BaseOptimizer = Optimizer | str

_HORIZON = 100.0  # steps of a training to which `log_learning_rate` belongs
_MAX_LOG_FACTOR = 4.0  # the network changes a learning rate by at most e^+-4
_MAX_LOG_AGE = 3.0  # the a of a mean lies within e^+-3
_INTERPOLATIONS = 0.3, 0.99  # least and largest b


class L3RSState(NamedTuple):
    """State of L3RS.

    Fields:
      count: steps done.
      num_losses: how many of their losses were finite; the others are in no mean.
      means: running means of logarithms, not yet corrected for their start.
      bases: states of the base optimizers.
      learning_rate, mix: of the last update, to be watched (`optax.tree.get(state, "mix")`).
      coefficients: `Coefficients` of the mean of the iterates at the last update, each [G]; with
        `average`, else None.
      largest: largest mean square of each direction so far [G, P]; with `fade`, else None.
      num_skipped: how many of the steps were skipped, because their gradient was not finite.
    """

    count: Int[Array, ""]
    num_losses: Int[Array, ""]
    means: Float[Array, "G Q R"]
    bases: tuple[optax.OptState, ...]
    learning_rate: Float[Array, "G"]
    mix: Float[Array, "G P"]
    coefficients: PyTree = None
    largest: PyTree = None
    num_skipped: Int[Array, ""] | int = 0


@dataclasses.dataclass(frozen=True)
class L3RS:
    """Mixes base optimizers with learned weights and a learned learning rate in every group.

        update_g = rate_g * sum_p mix_gp d_gp / rms(d_gp)

    where d_gp is what base optimizer p would add to group g (a layer), mix_g a softmax, and
    rate_g > 0. Both come from one small network for all groups. It sees a trained embedding of the
    group, running means (at several decays) of the logarithms of the loss and of the group's root
    mean squares of gradient, weights and update, and time.

    A loss that is not finite is left out of its mean. A gradient that is not finite moves nothing,
    and is counted in the state (`num_skipped`). If the squares of a gradient might overflow, it is
    scaled down before they are taken.

    Source: 2408.09310. UNVERIFIED (its text was not at hand) and ours: the network's size; softmax
    and root mean square; `rate = (num_steps / 100)^horizon_power exp(log_learning_rate + output)`,
    which a cosine over `num_steps` multiplies (`anneal`). They are made for horizons never trained
    on: how the rate has to change with the horizon is a power law, which can be learned from
    shorter ones; relative time ends at one, and absolute time saturates. Means of loss and norms
    may leave the range that they were trained in.

    With `average`, ours as well, the updates move iterates z, gradients are taken between these and
    a running mean x of them, and that mean is what is to be evaluated (`ico.optim.averaging`,
    `ico.optim.eval_params`). For every group and step t = 0, 1 ... the network gives a and b of

        z <- z + update,   x <- x + a / (t + a) (z - x),   parameters = b x + (1 - b) z

    Schedule-free optimizers (Defazio et al. 2024, 2405.15682) are the case a = 1, b = 0.9, which it
    starts from. `L3RS.averaged()` has the settings that go with it.

    With `fade`, ours too, a direction is divided by the largest root mean square that it has had so
    far. Updates then shrink with the gradients, as those of the base optimizers do; divided by its
    own, a direction that has become noise is followed as far as any other. It never forgets: one
    outlier among the gradients shortens all later updates.

    Fields:
      base_optimizers: P transforms that give updates to be added, or `base_optimizers`' names.
      decays: R, of the running means.
      hidden: widths of the network's hidden layers. UNVERIFIED: width and depth are ours.
      embed_dim: E. UNVERIFIED.
      log_learning_rate: where the logarithm of the learning rate (the root mean square of an
        update) starts, in all groups.
      group: path of a parameter -> what it is grouped by; None is `by_module`, layers.
      universal: whether one embedding serves all groups, of any model.
      use_loss, use_time: whether the network sees them.
      use_horizon: whether learning rates follow the power law of the horizon.
      fixed_mix: an even mix in place of the learned one.
      shared_learning_rate: one learning rate for all groups, the mean of their logarithms.
      anneal: whether a cosine multiplies the learning rate, which is zero at the horizon's end.
      average, fade: see above.

    Raises:
      ValueError: no base optimizer, or one of an unknown name.

    Example:
      >>> import ico, jax, jax.numpy as jnp, optax
      >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
      >>> config = ico.optim.L3RS()
      >>> theta = config.init(jax.random.key(0), params)  # to be trained by ico.metatrain
      >>> optimizer = config.optimizer(theta, num_steps=100)
      >>> state = optimizer.init(params)
      >>> grads = jax.tree.map(jnp.ones_like, params)
      >>> updates, state = optimizer.update(grads, state, params, value=jnp.asarray(2.0))
      >>> print(updates["dense"]["bias"].round(5))
      [-0.00303 -0.00303 -0.00303]
    """

    base_optimizers: Sequence[BaseOptimizer] = ("sgd", "adam")
    decays: Sequence[float] = (0.5, 0.9, 0.99)
    hidden: Sequence[int] = (32, 32)
    embed_dim: int = 8
    log_learning_rate: float = -5.8
    group: Group | None = None
    universal: bool = False
    use_loss: bool = True
    use_time: bool = True
    use_horizon: bool = True
    fixed_mix: bool = False
    shared_learning_rate: bool = False
    anneal: bool = True
    average: bool = False
    fade: bool = False

    def __post_init__(self):
        for name in ("base_optimizers", "decays", "hidden"):  # hashable, also if made from JSON
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not self.base_optimizers:
            raise ValueError("base_optimizers must hold at least one")
        for base in self.base_optimizers:
            signed_direction(base)

    @classmethod
    def averaged(cls, **changes) -> "L3RS":
        """The configuration for a mean of iterates, with `changes` to it.

        Its base optimizers have no momentum, for b gives one; there is no cosine, for the mean is
        calm without; updates fade, and start larger.
        """
        settings: dict[str, Any] = {
            "base_optimizers": ("sgd", "rmsprop"),
            "log_learning_rate": -5.2,
            "anneal": False,
            "average": True,
            "fade": True,
        }
        return cls(**(settings | changes))

    def init(self, key: Key[Array, ""], params: PyTree) -> PyTree:
        """What L3RS learns, such that untrained it is an even mix for all groups alike.

        Args:
          key: of the first layers of the network; its last starts at zero.
          params: of the model that it is for, or their shapes; not looked at with `universal`.

        Returns:
          {"embedding": [G or 1, E], "network": ..., "log_learning_rate": [], "horizon_power": []}.
        """
        num_groups = 1 if self.universal else len(groups_of(params, self.group).names)
        keys = jax.random.split(key, 2)
        widths = (
            num_features(len(self.decays), self.embed_dim),
            *self.hidden,
            num_outputs(len(self.base_optimizers), self.average),
        )
        return {
            "embedding": 0.1 * jax.random.normal(keys[0], (num_groups, self.embed_dim)),
            "network": network_init(keys[1], widths),
            "log_learning_rate": jnp.asarray(self.log_learning_rate, jnp.float32),
            "horizon_power": jnp.zeros((), jnp.float32),
        }

    def optimizer(
        self,
        theta: PyTree,
        num_steps: int | Num[Array, ""] = 1000,
        learning_rate: float | Float[Array, ""] = 1.0,
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer that theta makes, for a training of `num_steps`.

        Args:
          theta: of `init`, trained by `ico.metatrain`. Its leaves may be traced.
          num_steps: the horizon.
          learning_rate: a factor on all learning rates; one is as trained.

        Returns:
          A transform whose `update(grads, state, params, value=loss)` needs params, and the
          loss unless `use_loss` is off. Its state is float32, its updates have the type of the
          gradients.

        Raises:
          ValueError: a schedule as learning_rate, num_steps (not traced) below one, theta of
            another configuration; (in `init`) theta of another number of groups, or parameters that
            are not floating-point; (in `update`) params or the loss are missing, or it is no
            scalar.
        """
        if callable(learning_rate):
            raise ValueError(
                "learning_rate must be a number; optax.inject_hyperparams takes schedules"
            )
        if not isinstance(num_steps, jax.core.Tracer) and not num_steps > 0:
            raise ValueError(f"num_steps must be positive, not {num_steps}")
        self.check(theta)
        transform = _transform(self, theta, num_steps, learning_rate)
        return averaging_by(transform, self._coefficients) if self.average else transform

    def check(self, theta: PyTree, num_groups: int | None = None) -> None:
        """Raises ValueError if theta is for another configuration, or number of groups."""
        check_theta(
            theta,
            num_bases=len(self.base_optimizers),
            num_decays=len(self.decays),
            average=self.average,
            num_groups=num_groups,
        )

    def _coefficients(self, count, state: Any, params) -> Coefficients:
        """Those of the last update, spread from groups to parameters."""
        del count
        groups = groups_of(params, self.group)
        return Coefficients(*(groups.spread(values_G, params) for values_G in state.coefficients))


def _transform(config: L3RS, theta, num_steps, learning_rate):
    """The transform of one theta; its updates move the iterates where these are averaged."""
    bases, signs = zip(*map(signed_direction, config.base_optimizers), strict=True)
    sign_P = jnp.asarray(signs, jnp.float32)

    def init(params):
        check_floating("l3rs", params)
        groups = groups_of(params, config.group)
        config.check(theta, len(groups.names))
        G, P, R = len(groups.names), len(bases), len(config.decays)
        ones_G = jnp.ones(G, jnp.float32)
        return L3RSState(
            count=jnp.zeros((), jnp.int32),
            num_losses=jnp.zeros((), jnp.int32),
            means=jnp.zeros((G, NUM_QUANTITIES, R), jnp.float32),
            bases=tuple(base.init(in_float32(params)) for base in bases),
            learning_rate=jnp.zeros(G, jnp.float32),
            mix=jnp.zeros((G, P), jnp.float32),
            coefficients=Coefficients(ones_G, ones_G) if config.average else None,
            largest=jnp.zeros((G, P), jnp.float32) if config.fade else None,
            num_skipped=jnp.zeros((), jnp.int32),
        )

    def update(updates, state, params=None, *, value=None, **extra):
        _check_update(config, params, value)
        if not jax.tree.leaves(params):  # masked out, all of them
            return updates, state._replace(count=state.count + 1)
        groups = groups_of(params, config.group)
        types = jax.tree.map(lambda a: a.dtype, updates)
        updates, params = in_float32(updates), in_float32(params)
        safe = safe_gradient(updates)
        value = jnp.zeros((), jnp.float32) if value is None else jnp.asarray(value, jnp.float32)
        found = [
            base.update(safe.gradient, base_state, params, value=value, **extra)
            for base, base_state in zip(bases, state.bases, strict=True)
        ]
        directions, base_states = zip(*found, strict=True)
        gradient_G, gram_GPP = mean_products(groups, updates, safe, directions)
        means_GQR, num_losses = means_before_update(
            config.decays,
            state.means,
            state.num_losses,
            value,
            gradient_G,
            groups.mean_squares(params),
            safe.scale,
        )
        num_taken = state.count - state.num_skipped
        corrected_GQR = corrected(config.decays, means_GQR, num_taken, num_losses)
        out_GO = network_outputs(
            theta,
            corrected_GQR,
            state.count,
            num_steps,
            use_time=config.use_time,
            use_loss=config.use_loss,
        )
        rate_G = _learning_rates(config, theta, out_GO, state.count, num_steps, learning_rate)
        mix_GP = _mix(config, out_GO)
        weight_GP, largest_GP = _weights(config, rate_G, mix_GP * sign_P[None], gram_GPP, state)
        # The mean square of the update from those of the directions: no further pass over them.
        square_G = jnp.einsum("gp,gpr,gr->g", weight_GP, gram_GPP, weight_GP)
        square_G = jnp.maximum(square_G, 0)  # directions that cancel, rounded
        mixed = groups.combine(jnp.where(safe.is_finite, weight_GP, 0), directions)
        mixed = jax.tree.map(lambda u, kind: u.astype(kind), mixed, types)
        # If the gradient is not finite base optimizers get zeros, for keeping their states as they
        # were would copy them. All else stays.
        after = L3RSState(
            count=state.count,
            num_losses=num_losses,
            means=means_with_update(config.decays, means_GQR, square_G),
            bases=base_states,
            learning_rate=rate_G.astype(jnp.float32),
            mix=mix_GP.astype(jnp.float32),
            coefficients=_coefficients(out_GO, state.count) if config.average else None,
            largest=largest_GP,
            num_skipped=state.num_skipped,
        )
        kept = keep_if(safe.is_finite, after._replace(bases=()), state._replace(bases=()))
        return mixed, kept._replace(
            count=state.count + 1,
            bases=base_states,
            num_skipped=state.num_skipped + 1 - safe.is_finite.astype(jnp.int32),
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _check_update(config: L3RS, params, value) -> None:
    if params is None:
        raise ValueError("l3rs needs params: update(grads, state, params, value=loss)")
    if value is None and config.use_loss:
        raise ValueError(
            "l3rs needs the loss: update(grads, state, params, value=loss); inside a wrapper that "
            "passes no arguments on, such as optax.lookahead, set use_loss=False"
        )
    if jnp.shape(value):
        raise ValueError(f"the loss must be a scalar, not an array {list(jnp.shape(value))}")


def _learning_rates(config: L3RS, theta, out_GO, count, num_steps, factor):
    """The learning rate of every group, [G]."""
    log_rate = theta["log_learning_rate"]
    if config.use_horizon:
        longer = jnp.log(jnp.asarray(num_steps, jnp.float32) / _HORIZON)
        log_rate += theta["horizon_power"] * longer
    log_rate_G = log_rate + _MAX_LOG_FACTOR * jnp.tanh(out_GO[:, 0] / _MAX_LOG_FACTOR)
    if config.shared_learning_rate:
        log_rate_G = jnp.broadcast_to(jnp.mean(log_rate_G), log_rate_G.shape)
    rate_G = factor * jnp.exp(log_rate_G)
    if config.anneal:
        done = jnp.clip(count / jnp.asarray(num_steps, jnp.float32), 0, 1)
        rate_G = rate_G * 0.5 * (1 + jnp.cos(jnp.pi * done))
    return rate_G


def _mix(config: L3RS, out_GO):
    """The weights of the base optimizers in every group, [G, P], which sum to one."""
    logits_GP = out_GO[:, 1 : 1 + len(config.base_optimizers)]
    return jax.nn.softmax((0.0 if config.fixed_mix else 1.0) * logits_GP)


def _weights(config: L3RS, rate_G, signed_mix_GP, gram_GPP, state: L3RSState):
    """Factors of the directions as they are [G, P], and with `fade` their largest mean squares."""
    # The maximum, not a sum, for it has a derivative where a direction is zero.
    squares_GP = jnp.maximum(jnp.diagonal(gram_GPP, axis1=1, axis2=2), TINY**2)
    largest_GP = None
    if config.fade:
        squares_GP = largest_GP = jnp.maximum(state.largest, squares_GP)
    return rate_G[:, None] * signed_mix_GP * jax.lax.rsqrt(squares_GP), largest_GP


def _coefficients(out_GO, count) -> Coefficients:
    """a / (t + a) and b of every group, from the last two outputs of the network."""
    age_G = jnp.exp(_MAX_LOG_AGE * jnp.tanh(out_GO[:, -2] / _MAX_LOG_AGE))
    low, high = _INTERPOLATIONS
    start = np.log((0.9 - low) / (high - 0.9))  # b = 0.9 where the network gives zero
    interpolation_G = low + (high - low) * jax.nn.sigmoid(out_GO[:, -1] + start)
    weight_G = age_G / (count + age_G)
    return Coefficients(weight_G.astype(jnp.float32), interpolation_G.astype(jnp.float32))
