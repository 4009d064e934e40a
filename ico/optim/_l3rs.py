"""L3RS: a learned mix of optimizers and a learned step, layer by layer.

"Narrowing the Focus: Learned Optimizers for Pretrained Models" (Kristiansen et al. 2024, arXiv
2408.09310).

Dimension key: L layers (groups of parameters), P base optimizers, Q quantities (loss, gradient,
weights, update), R decay rates, F features, E width of the embedding.
"""

from collections.abc import Callable, Hashable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key, Num

from ico.optim._network import apply_network, network_init

PyTree = Any
Group = Callable[[tuple], Hashable]

DECAYS = (0.5, 0.9, 0.99)
# Steps at which the features of absolute time change: early, for a later change would come outside
# of what a short training has shown.
TIMES = (1.0, 3.0, 10.0)
_QUANTITIES = 4
_TINY = 1e-12
_LANES = 2048
_HORIZON = 100.0  # steps of a training to which `log_step` belongs
_REACH = 4.0  # the network scales the step by at most e^+-4


class L3RSState(NamedTuple):
    """Steps done, running means of logarithms, the state of every base optimizer.

    `step` and `mix` are those of the last update, for whoever wants to watch them.
    """

    count: Int[Array, ""]
    means: Float[Array, "L Q R"]
    bases: tuple[optax.OptState, ...]
    step: Float[Array, "L"]
    mix: Float[Array, "L P"]


def by_module(path: tuple) -> str:
    """The path of a parameter without its last key: what a kernel shares with its bias."""
    return jax.tree_util.keystr(path[:-1], simple=True, separator="/")


def base_optimizers() -> dict[str, optax.GradientTransformation]:
    """The base optimizers that have a name. Only their directions matter, not their lengths.

    All can be differentiated where gradients are zero, Adam by its `eps_root`.
    """
    return {
        "sgd": optax.sgd(1.0),
        "momentum": optax.sgd(1.0, momentum=0.9),
        "adam": optax.adam(1.0, eps_root=1e-16),
        "lion": optax.lion(1.0),
    }


def l3rs_init(
    key: Key[Array, ""],
    params: PyTree | None,
    *,
    num_bases: int = 2,
    hidden: Sequence[int] = (32, 32),
    embed_dim: int = 8,
    log_step: float = -5.8,
    decays: Sequence[float] = DECAYS,
    group: Group | None = None,
) -> PyTree:
    """What L3RS learns, such that untrained it is an even mix with a cosine for all layers alike.

    Args:
      key: of the first layers of the network; its last starts at zero.
      params: of the model that it is for, or shapes; None for an optimizer of any model, whose
        layers share one embedding.
      num_bases: P.
      hidden: widths of the network's hidden layers. UNVERIFIED: width and depth are ours.
      embed_dim: E. UNVERIFIED.
      log_step: logarithm of the root mean square of an update, in all layers, before the network.
      decays, group: as of `l3rs`.

    Returns:
      {"embedding": [L or 1, E], "network": ..., "log_step": [], "horizon_power": []}.
    """
    layers = 1 if params is None else len(_layers(params, group).names)
    keys = jax.random.split(key, 2)
    width = _QUANTITIES * len(decays) + 2 + len(TIMES) + embed_dim
    return {
        "embedding": 0.1 * jax.random.normal(keys[0], (layers, embed_dim)),
        "network": network_init(keys[1], (width, *hidden, 1 + num_bases)),
        "log_step": jnp.asarray(log_step, jnp.float32),
        "horizon_power": jnp.zeros((), jnp.float32),
    }


def l3rs(
    theta: PyTree,
    base_optimizers: Sequence[optax.GradientTransformation | str] = ("sgd", "adam"),
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
    anneal: bool = True,
) -> optax.GradientTransformationExtraArgs:
    """Mixes base optimizers with learned weights and a learned step in every layer.

        update_l = step_l * sum_p mix_lp d_lp / rms(d_lp)

    where d_lp is what base optimizer p would add to layer l, mix_l a softmax, and step_l > 0. Both
    come from one small network for all layers. It sees a trained embedding of the layer, running
    means (at several decays) of the logarithms of the loss and of the layer's root mean squares of
    gradient, weights and update, and time.

    Source: 2408.09310. UNVERIFIED (its text was not at hand) and ours: the network's size; softmax
    and root mean square; `step = (num_steps / 100)^horizon_power exp(log_step + output)`, which a
    cosine over `num_steps` multiplies (`anneal`). All three are made for horizons never trained on:
    they are annealed, too; how the step has to change with the horizon is a power law, which can be
    learned from shorter ones; and no feature of the network leaves its trained range: relative
    time ends at one, and absolute time has all but saturated after some thirty steps.

    Args:
      theta: as of `l3rs_init`, trained by `ico.metatrain`. Its leaves may be traced.
      base_optimizers: any transforms that give updates to be added, or names of
        `ico.optim.base_optimizers`.
      num_steps: the horizon; at its end the step is zero with `anneal`.
      learning_rate: a factor on all steps; one is as trained.
      group: path of a parameter -> what it is grouped by; groups are layers. None is `by_module`.
      decays: R, of the running means; those that theta was made for.
      use_time, use_loss: whether the network sees them.
      use_horizon: whether steps follow the power law of the horizon.
      fixed_mix: an even mix in place of the learned one.
      shared_step: one step for all layers, the mean of their logarithms.
      anneal: whether a cosine multiplies the step.

    Returns:
      A transform whose `update(grads, state, params, value=loss)` wants parameters, and the loss
      unless `use_loss` is off. States are float32, updates of the type of the gradients.

    Raises:
      ValueError: no base optimizer; (in `init`) theta of another number of layers, bases or
        features; (in `update`) params or the loss are missing.

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
    bases = tuple(map(_base, base_optimizers))
    if not bases:
        raise ValueError("base_optimizers must hold at least one")
    steppers: list[Any] = [optax.with_extra_args_support(base) for base in bases]
    decays_R = jnp.asarray(decays, jnp.float32)

    def init(params):
        layers = _layers(params, group)
        _check(theta, len(layers.names), len(bases), len(decays))
        L, P = len(layers.names), len(bases)
        means = jnp.zeros((L, _QUANTITIES, len(decays)), jnp.float32)
        states = tuple(base.init(params) for base in steppers)
        nothing = jnp.zeros(L, jnp.float32), jnp.zeros((L, P), jnp.float32)
        return L3RSState(jnp.zeros((), jnp.int32), means, states, *nothing)

    def update(updates, state, params=None, *, value=None, **extra):
        if params is None:
            raise ValueError("l3rs needs params: update(grads, state, params, value=loss)")
        if value is None and use_loss:
            raise ValueError("l3rs needs the loss: update(grads, state, params, value=loss)")
        layers = _layers(params, group)
        value = jnp.zeros((), jnp.float32) if value is None else value
        found = [b.update(updates, s, params, value=value, **extra)
                 for b, s in zip(steppers, state.bases, strict=True)]  # fmt: skip
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
        mix_LP = jax.nn.softmax(jnp.zeros_like(out_LO[:, 1:]) if fixed_mix else out_LO[:, 1:])
        step_L = learning_rate * jnp.exp(log_step_L)
        if anneal:
            done = jnp.clip(state.count / jnp.asarray(num_steps, jnp.float32), 0, 1)
            step_L = step_L * 0.5 * (1 + jnp.cos(jnp.pi * done))
        # The maximum, not a sum, for it has a derivative where a direction is zero.
        squares_LP = jnp.maximum(jnp.diagonal(gram_LPP, axis1=1, axis2=2), _TINY**2)
        weight_LP = step_L[:, None] * mix_LP * jax.lax.rsqrt(squares_LP)
        # The mean square of the update from those of the directions: no further pass over them.
        square_L = jnp.einsum("lp,lpr,lr->l", weight_LP, gram_LPP, weight_LP)
        square_L = jnp.maximum(square_L, 0)  # directions that cancel, rounded
        last_LR = state.means[:, 3] * decays_R[None]
        last_LR = last_LR + (1 - decays_R)[None] * _log(square_L)[:, None]
        means = jnp.concatenate([means_LQR, last_LR[:, None]], axis=1).astype(jnp.float32)
        mixed = layers.combine(weight_LP, directions, updates)
        watched = step_L.astype(jnp.float32), mix_LP.astype(jnp.float32)
        return mixed, L3RSState(state.count + 1, means, tuple(base_states), *watched)

    return optax.GradientTransformationExtraArgs(init, update)


def _base(base):
    if not isinstance(base, str):
        return base
    known = base_optimizers()
    if base not in known:
        raise ValueError(f"base optimizers are {', '.join(known)}, not {base!r}")
    return known[base]


def _network(theta, means_LQR, count, num_steps, use_time, use_loss):
    """Outputs [L, 1 + P] of the shared network."""
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


def _check(theta, num_layers, num_bases, num_decays):
    parts = {"embedding", "network", "log_step", "horizon_power"}
    if missing := sorted(parts - set(theta)):
        raise ValueError(f"theta has no {', '.join(missing)}: take that of l3rs_init or of a save")
    have, width = theta["embedding"].shape
    if have not in (1, num_layers) and num_layers:
        raise ValueError(f"theta is for {have} layers, the parameters have {num_layers}")
    kernels = [layer["kernel"].shape for layer in theta["network"].values()]
    want = _QUANTITIES * num_decays + 2 + len(TIMES) + width, 1 + num_bases
    if (kernels[0][0], kernels[-1][1]) != want:
        raise ValueError(
            f"theta's network goes from {kernels[0][0]} features to {kernels[-1][1]} outputs; "
            f"{num_bases} base optimizers and {num_decays} decays need {want[0]} and {want[1]}"
        )


class _Layers(NamedTuple):
    """Which layer every parameter belongs to, in the order of the leaves."""

    names: tuple
    places: tuple[int, ...]
    sizes: tuple[int, ...]  # numbers in every layer

    def mean_squares(self, tree) -> Float[Array, "L"]:
        """By layer."""
        return self._means([_inner(leaf, leaf) for leaf in jax.tree.leaves(tree)])

    def grams(self, trees) -> Float[Array, "L P P"]:
        """Mean products of every two trees, by layer."""
        leaves, P = [jax.tree.leaves(tree) for tree in trees], len(trees)
        pairs = {(p, r): self._means(list(map(_inner, leaves[p], leaves[r])))
                 for p in range(P) for r in range(p, P)}  # fmt: skip
        rows = [jnp.stack([pairs[min(p, r), max(p, r)] for r in range(P)], -1) for p in range(P)]
        return jnp.stack(rows, axis=-2)

    def _means(self, sums) -> Float[Array, "L"]:
        totals = [jnp.zeros((), jnp.float32)] * len(self.names)
        for place, part in zip(self.places, sums, strict=True):
            totals[place] = totals[place] + part
        return jnp.stack(totals) / jnp.asarray(self.sizes, jnp.float32)

    def combine(self, weight_LP, trees, like):
        """`sum_p weight[l, p] tree_p` for every leaf of layer l, in the types of `like`."""
        leaves, structure = jax.tree.flatten(like)
        parts = zip(*map(jax.tree.leaves, trees), strict=True)
        mixed = [
            sum(
                (weight_LP[place, p] * part.astype(jnp.float32) for p, part in enumerate(several)),
                start=jnp.zeros((), jnp.float32),
            )
            for place, several in zip(self.places, parts, strict=True)
        ]
        return jax.tree.unflatten(
            structure, [m.astype(leaf.dtype) for m, leaf in zip(mixed, leaves, strict=True)]
        )


def _inner(a, b):
    """The sum of products. Large arrays go by lanes, on a CPU twice as fast as one sum over all."""
    product = (a.astype(jnp.float32) * b.astype(jnp.float32)).reshape(-1)
    if product.size < 64 * _LANES:
        return jnp.sum(product)
    whole = product.size // _LANES * _LANES
    total = jnp.sum(product[:whole].reshape(-1, _LANES).sum(0))
    return total if whole == product.size else total + jnp.sum(product[whole:])


def _layers(params, group: Group | None) -> _Layers:
    group = by_module if group is None else group
    entries = jax.tree_util.tree_leaves_with_path(params)
    groups = [group(path) for path, _ in entries]
    names = tuple(dict.fromkeys(groups))
    places = tuple(names.index(name) for name in groups)
    sizes = np.zeros(len(names), int)
    np.add.at(sizes, list(places), [leaf.size for _, leaf in entries])
    return _Layers(names, places, tuple(max(int(size), 1) for size in sizes))
