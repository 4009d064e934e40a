"""L3RS: a learned mix of optimizers and a learned step, layer by layer.

"Narrowing the Focus: Learned Optimizers for Pretrained Models" (Kristiansen et al. 2024, arXiv
2408.09310).

Dimension key: L layers (groups of parameters), P base optimizers, Q quantities (loss, gradient,
weights, update), R decay rates, F features, E width of the embedding.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Num

from ico.optim._by_layer import Group, Layers, check_floating, layers_of
from ico.optim._network import apply_network, network_init

PyTree = Any

DECAYS = (0.5, 0.9, 0.99)
# Steps at which the features of absolute time change: early, for a later change would come outside
# of what a short training has shown.
TIMES = (1.0, 3.0, 10.0)
_QUANTITIES = 4
_TINY = 1e-12
_HORIZON = 100.0  # steps of a training to which `log_step` belongs
_REACH = 4.0  # the network scales the step by at most e^+-4
_AGES = 3.0  # and what the mean forgets by at most e^+-3
_PULLS = 0.3, 0.99  # the least and the most of the mean in what gradients are taken at


class L3RSState(NamedTuple):
    """Steps done, running means of logarithms, the state of every base optimizer.

    `step` and `mix` are those of the last update, for whoever wants to watch them. `iterate` is
    what steps are added to, and `mean` what is to be used: of `average` alone, else None.
    `largest` holds the largest mean squares of the directions so far: of `fade` alone.
    """

    count: Int[Array, ""]
    means: Float[Array, "L Q R"]
    bases: tuple[optax.OptState, ...]
    step: Float[Array, "L"]
    mix: Float[Array, "L P"]
    iterate: PyTree = None
    mean: PyTree = None
    largest: PyTree = None


# Directions of ascent: turning them round with their weights saves a pass over each. All can be
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


def l3rs_init(
    key: Key[Array, ""],
    params: PyTree | None,
    *,
    num_bases: int = 2,
    hidden: Sequence[int] = (32, 32),
    embed_dim: int = 8,
    log_step: float | None = None,
    decays: Sequence[float] = DECAYS,
    group: Group | None = None,
    average: bool = False,
) -> PyTree:
    """What L3RS learns, such that untrained it is an even mix for all layers alike.

    Args:
      key: of the first layers of the network; its last starts at zero.
      params: of the model that it is for, or shapes; None for an optimizer of any model, whose
        layers share one embedding.
      num_bases: P.
      hidden: widths of the network's hidden layers. UNVERIFIED: width and depth are ours.
      embed_dim: E. UNVERIFIED.
      log_step: logarithm of the root mean square of an update, in all layers, before the network;
        None is -5.8, of iterates that are averaged -5.2.
      decays, group, average: as of `l3rs`.

    Returns:
      {"embedding": [L or 1, E], "network": ..., "log_step": [], "horizon_power": []}.
    """
    if log_step is None:
        log_step = -5.2 if average else -5.8
    layers = 1 if params is None else len(layers_of(params, group).names)
    keys = jax.random.split(key, 2)
    width = _QUANTITIES * len(decays) + 2 + len(TIMES) + embed_dim
    return {
        "embedding": 0.1 * jax.random.normal(keys[0], (layers, embed_dim)),
        "network": network_init(keys[1], (width, *hidden, _outputs(num_bases, average))),
        "log_step": jnp.asarray(log_step, jnp.float32),
        "horizon_power": jnp.zeros((), jnp.float32),
    }


def l3rs(
    theta: PyTree,
    base_optimizers: Sequence[optax.GradientTransformation | str] | None = None,
    num_steps: int | Num[Array, ""] = 1000,
    *,
    learning_rate: float | Float[Array, ""] = 1.0,
    group: Group | None = None,
    decays: Sequence[float] = DECAYS,
    use_time: bool = True,
    use_loss: bool = True,
    use_horizon: bool = True,
    fixed_mix: bool = False,
    shared_step: bool = False,
    anneal: bool | None = None,
    average: bool = False,
    fade: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Mixes base optimizers with learned weights and a learned step in every layer.

        update_l = step_l * sum_p mix_lp d_lp / rms(d_lp)

    where d_lp is what base optimizer p would add to layer l, mix_l a softmax, and step_l > 0. Both
    come from one small network for all layers. It sees a trained embedding of the layer, running
    means (at several decays) of the logarithms of the loss and of the layer's root mean squares of
    gradient, weights and update, and time.

    Source: 2408.09310. UNVERIFIED (its text was not at hand) and ours: the network's size; softmax
    and root mean square; `step = (num_steps / 100)^horizon_power exp(log_step + output)`, which a
    cosine over `num_steps` multiplies (`anneal`). They are made for horizons never trained on: how
    the step has to change with the horizon is a power law, which can be learned from shorter ones;
    relative time ends at one, and absolute time saturates. Means of loss and norms may leave the
    range that they were trained in.

    With `average`, ours as well, steps are added to iterates z, gradients are taken between these
    and a running mean x of them, and that mean is what is to be used and tested
    (`ico.optim.eval_params`); the network gives a and b of every layer and step t = 0, 1 ...

        z <- z + update,   x <- x + a / (t + a) (z - x),   parameters = b x + (1 - b) z

    Schedule-free optimizers (Defazio et al. 2024, 2405.15682) are the case a = 1, b = 0.9, which
    it starts from. Its bases should have no momentum, for b gives one, and its step no cosine, for
    the mean is calm without: so are its defaults.

    With `fade`, ours too, a direction is divided by the largest root mean square that it has had
    so far. Steps then shrink with the gradients, as those of its bases do; divided by its own, a
    direction that has become noise is followed as far as any other. It never forgets: one outlier
    among the gradients shortens all later steps.

    Args:
      theta: as of `l3rs_init`, trained by `ico.metatrain`. Its leaves may be traced.
      base_optimizers: any transforms that give updates to be added, or names of
        `ico.optim.base_optimizers`; None is "sgd" and "adam", with `average` "sgd" and "rmsprop".
      num_steps: the horizon; at its end the step is zero with `anneal`.
      learning_rate: a factor on all steps; one is as trained.
      group: path of a parameter -> what it is grouped by; groups are layers. None is `by_module`.
      decays: R, of the running means; those that theta was made for.
      use_time, use_loss: whether the network sees them.
      use_horizon: whether steps follow the power law of the horizon.
      fixed_mix: an even mix in place of the learned one.
      shared_step: one step for all layers, the mean of their logarithms.
      anneal: whether a cosine multiplies the step; None is yes, with `average` no.
      average: see above.
      fade: see above; None is as `average`.

    Returns:
      A transform whose `update(grads, state, params, value=loss)` wants parameters, and the loss
      unless `use_loss` is off. States are float32, updates of the type of the gradients.

    Raises:
      ValueError: no base optimizer, a schedule as learning_rate, num_steps (not traced) below one;
        (in `init`) theta of another number of layers, bases or features, or parameters that are not
        floating numbers; (in `update`) params or the loss are missing, or it is no scalar.

    Example:
      >>> import ico, jax, jax.numpy as jnp, optax
      >>> params = {"dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}
      >>> theta = ico.optim.l3rs_init(jax.random.key(0), params)
      >>> optimizer = ico.optim.l3rs(theta, num_steps=100)
      >>> state = optimizer.init(params)
      >>> grads = jax.tree.map(jnp.ones_like, params)
      >>> updates, state = optimizer.update(grads, state, params, value=jnp.asarray(2.0))
      >>> print(updates["dense"]["bias"].round(5))
      [-0.00303 -0.00303 -0.00303]
    """
    if base_optimizers is None:
        base_optimizers = ("sgd", "rmsprop") if average else ("sgd", "adam")
    anneal = not average if anneal is None else anneal
    fade = average if fade is None else fade
    if not base_optimizers:
        raise ValueError("base_optimizers must hold at least one")
    if callable(learning_rate):
        raise ValueError("learning_rate must be a number; optax.inject_hyperparams takes schedules")
    if not isinstance(num_steps, jax.core.Tracer) and not num_steps > 0:
        raise ValueError(f"num_steps must be positive, not {num_steps}")
    bases, signs = zip(*map(_base, base_optimizers), strict=True)
    sign_P = jnp.asarray(signs, jnp.float32)
    decays_R = jnp.asarray(decays, jnp.float32)

    def init(params):
        check_floating("l3rs", params)
        layers = layers_of(params, group)
        _check(theta, len(layers.names), len(bases), len(decays), average)
        L, P = len(layers.names), len(bases)
        means = jnp.zeros((L, _QUANTITIES, len(decays)), jnp.float32)
        states = tuple(base.init(_wide(params)) for base in bases)
        nothing = jnp.zeros(L, jnp.float32), jnp.zeros((L, P), jnp.float32)
        # Copies, so that parameters may be donated.
        apart = [jax.tree.map(jnp.array, _wide(params)) if average else None for _ in range(2)]
        largest = jnp.zeros((L, P), jnp.float32) if fade else None
        count = jnp.zeros((), jnp.int32)
        return L3RSState(count, means, states, *nothing, *apart, largest=largest)

    def update(updates, state, params=None, *, value=None, **extra):
        if params is None:
            raise ValueError("l3rs needs params: update(grads, state, params, value=loss)")
        if value is None and use_loss:
            raise ValueError("l3rs needs the loss: update(grads, state, params, value=loss)")
        if not jax.tree.leaves(params):  # masked out, all of them
            return updates, state._replace(count=state.count + 1)
        layers, types = layers_of(params, group), jax.tree.map(lambda a: a.dtype, updates)
        updates, params = _wide(updates), _wide(params)
        value = jnp.zeros((), jnp.float32) if value is None else value
        if jnp.shape(value):
            raise ValueError(f"the loss must be a scalar, not an array {list(jnp.shape(value))}")
        found = [b.update(updates, s, params, value=value, **extra)
                 for b, s in zip(bases, state.bases, strict=True)]  # fmt: skip
        directions, base_states = zip(*found, strict=True)
        gram_LPP = layers.grams(directions)
        loss_L = jnp.broadcast_to(_signed_log(value), (len(layers.names),))
        seen_LQ = jnp.stack(
            [loss_L, _log(layers.mean_squares(updates)), _log(layers.mean_squares(params))], axis=-1
        )
        decay_QR = jnp.broadcast_to(decays_R[None], (3, len(decays)))
        means_LQR = decay_QR[None] * state.means[:, :3] + (1 - decay_QR)[None] * seen_LQ[..., None]
        before = (state.count + jnp.array([1, 1, 1, 0])).astype(jnp.float32)
        whole_LQR = jnp.concatenate([means_LQR, state.means[:, 3:]], axis=1)
        corrected = whole_LQR / jnp.maximum(1 - decays_R[None] ** before[:, None], _TINY)[None]
        out_LO = _network(theta, corrected, state.count, num_steps, use_time, use_loss)
        log_step = theta["log_step"]
        if use_horizon:
            longer = jnp.log(jnp.asarray(num_steps, jnp.float32) / _HORIZON)
            log_step += theta["horizon_power"] * longer
        log_step_L = log_step + _REACH * jnp.tanh(out_LO[:, 0] / _REACH)
        if shared_step:
            log_step_L = jnp.broadcast_to(jnp.mean(log_step_L), log_step_L.shape)
        mix_LP = jax.nn.softmax((0.0 if fixed_mix else 1.0) * out_LO[:, 1 : 1 + len(bases)])
        step_L = learning_rate * jnp.exp(log_step_L)
        if anneal:
            done = jnp.clip(state.count / jnp.asarray(num_steps, jnp.float32), 0, 1)
            step_L = step_L * 0.5 * (1 + jnp.cos(jnp.pi * done))
        # The maximum, not a sum, for it has a derivative where a direction is zero.
        squares_LP = jnp.maximum(jnp.diagonal(gram_LPP, axis1=1, axis2=2), _TINY**2)
        largest_LP = None
        if fade:
            squares_LP = largest_LP = jnp.maximum(state.largest, squares_LP)
        weight_LP = step_L[:, None] * mix_LP * sign_P[None] * jax.lax.rsqrt(squares_LP)
        # The mean square of the update from those of the directions: no further pass over them.
        square_L = jnp.einsum("lp,lpr,lr->l", weight_LP, gram_LPP, weight_LP)
        square_L = jnp.maximum(square_L, 0)  # directions that cancel, rounded
        last_LR = state.means[:, 3] * decays_R[None]
        last_LR = last_LR + (1 - decays_R)[None] * _log(square_L)[:, None]
        means = jnp.concatenate([means_LQR, last_LR[:, None]], axis=1).astype(jnp.float32)
        mixed, apart = layers.combine(weight_LP, directions), (None, None)
        if average:
            mixed, *apart = _averaged(layers, mixed, state, params, out_LO[:, -2:])
        mixed = jax.tree.map(lambda u, kind: u.astype(kind), mixed, types)
        watched = step_L.astype(jnp.float32), mix_LP.astype(jnp.float32)
        count = state.count + 1
        return mixed, L3RSState(
            count, means, tuple(base_states), *watched, *apart, largest=largest_LP
        )

    return optax.GradientTransformationExtraArgs(init, update)


def _outputs(num_bases: int, average: bool) -> int:
    """A step, a mix, and what the mean of the iterates needs."""
    return 1 + num_bases + 2 * average


def _wide(tree):
    """In float32 at least: small steps and moments are lost in less."""
    return jax.tree.map(lambda a: a.astype(jnp.promote_types(a.dtype, jnp.float32)), tree)


def _averaged(layers: Layers, step, state: L3RSState, params, out_L2):
    """What moves the parameters, and iterates and mean after it."""
    age_L = jnp.exp(_AGES * jnp.tanh(out_L2[:, 0] / _AGES))
    share_L = age_L / (state.count + age_L)
    low, high = _PULLS
    start = np.log((0.9 - low) / (high - 0.9))  # a pull of 0.9
    pull_L = low + (high - low) * jax.nn.sigmoid(out_L2[:, 1] + start)
    iterate = jax.tree.map(jnp.add, state.iterate, step)
    share, pull = (layers.spread(a.astype(jnp.float32), params) for a in (share_L, pull_L))
    mean = jax.tree.map(lambda x, z, c: x + c * (z - x), state.mean, iterate, share)
    moved = jax.tree.map(lambda x, z, b, y: z + b * (x - z) - y, mean, iterate, pull, params)
    return moved, iterate, mean


def _base(base):
    """A transform, and the sign that makes its updates ones to be added."""
    if not isinstance(base, str):
        return optax.with_extra_args_support(base), 1.0
    if base not in _ASCENTS:
        raise ValueError(f"base optimizers are {', '.join(_ASCENTS)}, not {base!r}")
    return optax.with_extra_args_support(_ASCENTS[base]), -1.0


def _network(theta, means_LQR, count, num_steps, use_time, use_loss):
    """Outputs [L, O] of the shared network."""
    L = len(means_LQR)
    slow_LQ, trends_LQR = means_LQR[..., -1], means_LQR[..., :-1] - means_LQR[..., 1:]
    by_layer = jnp.concatenate([0.2 * slow_LQ[..., None], trends_LQR], axis=-1)
    if not use_loss:
        by_layer = by_layer.at[:, 0].set(0)
    done = jnp.clip(count / jnp.asarray(num_steps, jnp.float32), 0, 1)
    relative = jnp.stack([2 * done - 1, 0.4 * jnp.log(1.01 - done) + 1])
    absolute = jnp.tanh(jnp.log((count + 1) / jnp.asarray(TIMES, jnp.float32)))
    time_F = jnp.concatenate([relative, absolute]) * (1.0 if use_time else 0.0)
    embedding = jnp.broadcast_to(theta["embedding"], (L, theta["embedding"].shape[-1]))
    features = [by_layer.reshape(L, -1), jnp.broadcast_to(time_F[None], (L, len(time_F))),
                embedding]  # fmt: skip
    return apply_network(theta["network"], jnp.concatenate(features, axis=-1))


def _log(mean_square):
    """Half the logarithm of a mean square: that of the root."""
    return 0.5 * jnp.log(mean_square + _TINY**2)


def _signed_log(value):
    """A logarithm for losses of any sign, linear below 1e-4."""
    value = jnp.asarray(value, jnp.float32)
    return jnp.sign(value) * jnp.log1p(jnp.abs(value) / 1e-4)


def _check(theta, num_layers, num_bases, num_decays, average):
    parts = {"embedding", "network", "log_step", "horizon_power"}
    if missing := sorted(parts - set(theta)):
        raise ValueError(f"theta has no {', '.join(missing)}: take that of l3rs_init or of a save")
    have, width = theta["embedding"].shape
    if have not in (1, num_layers) and num_layers:
        raise ValueError(f"theta is for {have} layers, the parameters have {num_layers}")
    kernels = [layer["kernel"].shape for layer in theta["network"].values()]
    want = _QUANTITIES * num_decays + 2 + len(TIMES) + width, _outputs(num_bases, average)
    if (kernels[0][0], kernels[-1][1]) != want:
        raise ValueError(
            f"theta's network goes from {kernels[0][0]} features to {kernels[-1][1]} outputs; "
            f"{num_bases} base optimizers and {num_decays} decays need {want[0]} and {want[1]}"
            f"{' to average' * average}"
        )
