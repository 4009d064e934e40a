"""Gradients of a meta-loss with respect to what an optimizer learned.

Four estimators, each over N tasks side by side (`vmap`; the keys' axis may be sharded):

- `unrolled`: backpropagation through whole inner trainings.
- `truncated`: through stretches of them, states carried over and taken as given.
- `evolution`: antithetic evolution strategies over whole trainings,
      g = mean (L(theta + sigma e) - L(theta - sigma e)) / (2 sigma) e,
  the gradient of the smoothed meta-loss E[L(theta + sigma e)] (Salimans et al., 1703.03864).
- `persistent`: persistent evolution strategies (Vicol et al., 2112.13835) over stretches: each
  particle keeps its state, and the sum xi of all its perturbations since its training began takes
  the place of e; antithetic. Unbiased for the smoothed loss of whole trainings in which every
  stretch has a perturbation of its own, where truncation is not.

Dimension key: N tasks, T steps.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from ico.metatrain._tasks import Inner, TaskFamily, begin, watched_step

PyTree = Any
Build = Callable[[PyTree, Any], optax.GradientTransformationExtraArgs]
Method = Literal["unrolled", "truncated", "evolution", "persistent"]
MetaLoss = Literal["mean", "last", "mixed"]
Shaping = Literal["difference", "sign", "clipped"]


@dataclasses.dataclass(frozen=True)
class Estimator:
    """How the gradient is estimated.

    Fields:
      method: see above.
      num_tasks: N; of evolution strategies as many antithetic pairs.
      sigma: standard deviation of perturbations.
      truncation: steps of a stretch, "truncated" and "persistent".
      meta_loss: of whole trainings, of the losses at each step (see `Task.meta_batch`): their
        "mean"; the mean of the "last" tenth; or half of each, "mixed". Stretches always take the
        mean.
      shaping: what stands for the difference of a pair's losses: itself, its "sign" (evolution
        strategies alone), or itself "clipped" at three times the median magnitude over pairs. By
        backpropagation each task's gradient is clipped so by its norm, and a diverged training
        counts as none; of a pair, where both have diverged. Only the first is unbiased.

    Raises:
      ValueError: an unknown word, or a number that is not positive.
    """

    method: Method = "evolution"
    num_tasks: int = 16
    sigma: float = 0.03
    truncation: int = 20
    meta_loss: MetaLoss = "mixed"
    shaping: Shaping = "difference"

    def __post_init__(self):
        for name, words in (("method", Method), ("meta_loss", MetaLoss), ("shaping", Shaping)):
            if getattr(self, name) not in get_args(words):
                raise ValueError(f"{name} must be one of {get_args(words)}")
        for name in ("num_tasks", "sigma", "truncation"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")

    @property
    def carries(self) -> bool:
        """Whether inner trainings go on from one gradient to the next."""
        return self.method in ("truncated", "persistent")


class Carried(NamedTuple):
    """Inner trainings under way, one a task; of a pair both, on a leading axis of two.

    `xi` is the sum of perturbations since the training began; `horizon` its length.
    """

    setting: PyTree
    inner: Inner
    xi: PyTree
    horizon: Int[Array, "N"]


# Whole trainings ----------------------------------------------------------------------------------


def _whole(build: Build, family: TaskFamily, estimator: Estimator, longest: int):
    """(theta, key, horizon) -> meta-loss of one training of so many steps, at most `longest`.

    Differentiable with "unrolled", where steps behind the horizon are taken and thrown away; else a
    loop of exactly as many steps.
    """

    def loss(theta, key, horizon):
        keys = jax.random.split(key, 3)
        task = family.task(family.sample(keys[0]))
        optimizer = build(theta, horizon)
        late = jnp.ceil(0.9 * jnp.asarray(horizon, jnp.float32)).astype(jnp.int32)
        late = jnp.minimum(late, jnp.asarray(horizon) - 1)

        def step(t, state):
            inner, total, last = state
            inner, value = watched_step(optimizer, task, inner, jax.random.fold_in(keys[2], t))
            return inner, total + value, last + jnp.where(t >= late, value, 0)

        state = (begin(optimizer, task, keys[1]), jnp.zeros(()), jnp.zeros(()))
        if estimator.method == "unrolled":

            def until(state, t):
                after = step(t, state)
                return jax.tree.map(lambda a, b: jnp.where(t < horizon, a, b), after, state), None

            state, _ = jax.lax.scan(until, state, jnp.arange(longest))
        else:
            state = jax.lax.fori_loop(0, horizon, step, state)
        _, total, last = state
        mean, end = total / horizon, last / (horizon - late)
        return {"mean": mean, "last": end, "mixed": 0.5 * (mean + end)}[estimator.meta_loss]

    return loss


def whole_gradient(
    build: Build,
    family: TaskFamily,
    estimator: Estimator,
    theta: PyTree,
    keys: Key[Array, "N"],
    horizon: int | Int[Array, ""] | Int[Array, "N"],
    longest: int | None = None,
) -> tuple[Float[Array, ""], PyTree]:
    """Meta-loss, mean over tasks, and its gradient, by "unrolled" or "evolution".

    Args:
      build: (theta, horizon) -> optimizer.
      family, estimator: what and how.
      theta: where.
      keys: one a task.
      horizon: inner steps, of all, or with "unrolled" of each.
      longest: the most that they can be, for "unrolled"; needed where they are traced.
    """
    if longest is None:
        longest = int(np.max(np.asarray(horizon))) if estimator.method == "unrolled" else 0
    loss = _whole(build, family, estimator, longest)
    if estimator.method == "unrolled":
        many = jnp.broadcast_to(jnp.asarray(horizon, jnp.int32), (len(keys),))

        losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))(theta, keys, many)
        return _mean_loss(losses, estimator), _mean_gradient(grads, estimator)
    keys = jax.vmap(jax.random.split)(keys)  # [N, 2]: perturbations, tasks
    noise = jax.vmap(lambda key: _normal_like(key, theta))(keys[:, 0])
    # Pairs side by side, in one loop: compiled in half the time of two, or of a batch of batches.
    signs = estimator.sigma * jnp.array([1.0, -1.0])
    both = jax.vmap(lambda sign: _moved(theta, noise, sign), out_axes=1)(signs)  # [N, 2, ...]
    both = jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), both)
    losses = jax.vmap(loss, (0, 0, None))(both, jnp.repeat(keys[:, 1], 2), horizon)
    up, down = losses.reshape(-1, 2).T
    weights = _shaped(up - down, estimator.shaping) / (2 * estimator.sigma)
    return _mean_loss(0.5 * (up + down), estimator), _weighted_mean(weights, noise)


# Stretches ----------------------------------------------------------------------------------------


def begin_carried(
    build: Build,
    family: TaskFamily,
    estimator: Estimator,
    theta: PyTree,
    keys: Key[Array, "N"],
    horizons: Int[Array, "N"],
) -> Carried:
    """Trainings before their first step, each somewhere in its horizon so that ends are spread.

    Each is shorter by a random multiple of the truncation, so that not all end at once.
    """
    fresh = _fresh(build, family, estimator, theta, keys, horizons)
    stretches = jnp.maximum(horizons // estimator.truncation, 1)
    ages = jax.vmap(lambda key, n: jax.random.randint(jax.random.fold_in(key, 2**17), (), 0, n))(
        keys, stretches
    )
    left = (stretches - ages) * estimator.truncation
    return fresh._replace(horizon=left)


def carried_gradient(
    build: Build,
    family: TaskFamily,
    estimator: Estimator,
    theta: PyTree,
    carried: Carried,
    keys: Key[Array, "N"],
    horizons: Int[Array, "N"],
) -> tuple[Float[Array, ""], PyTree, Carried]:
    """Mean loss of one stretch of every training, its gradient, and the trainings after it.

    Trainings that have come to their horizon begin anew first: another task, start and horizon,
    and (PES) an empty sum of perturbations.

    Args:
      build, family, estimator, theta: as of `whole_gradient`; "truncated" or "persistent".
      carried: the trainings.
      keys: one a task.
      horizons: of those that begin anew; multiples of the truncation.
    """
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)  # [N, 3]
    fresh = _fresh(build, family, estimator, theta, keys[:, 0], horizons)
    step = carried.inner.step
    ended = (step[0] if estimator.method == "persistent" else step) >= carried.horizon
    carried = _choose(ended, fresh, carried, estimator)

    def stretch(theta, setting, inner, horizon, key):
        task, optimizer = family.task(setting), build(theta, horizon)

        def step(inner, t):
            return watched_step(optimizer, task, inner, jax.random.fold_in(key, t))

        inner, losses = jax.lax.scan(step, inner, jnp.arange(estimator.truncation))
        return jnp.mean(losses), inner

    if estimator.method == "truncated":
        given = carried.setting, jax.lax.stop_gradient(carried.inner), carried.horizon
        gradients = jax.vmap(jax.value_and_grad(stretch, has_aux=True), (None, 0, 0, 0, 0))
        (losses, inner), grads = gradients(theta, *given, keys[:, 1])
        loss, gradient = _mean_loss(losses, estimator), _mean_gradient(grads, estimator)
        return loss, gradient, carried._replace(inner=inner)
    noise = jax.vmap(lambda key: _normal_like(key, theta))(keys[:, 2])
    xi = jax.tree.map(jnp.add, carried.xi, noise)
    signs = estimator.sigma * jnp.array([1.0, -1.0])
    # [2, N]: the batches are common to a pair, the states are not.
    losses, inner = jax.vmap(
        lambda sign, inner: jax.vmap(stretch)(
            _moved(theta, noise, sign), carried.setting, inner, carried.horizon, keys[:, 1]
        )
    )(signs, carried.inner)
    weights = _shaped(losses[0] - losses[1], estimator.shaping) / (2 * estimator.sigma)
    loss = _mean_loss(losses, estimator)
    return loss, _weighted_mean(weights, xi), carried._replace(inner=inner, xi=xi)


def _fresh(build, family, estimator, theta, keys, horizons) -> Carried:
    def one(key, horizon):
        keys = jax.random.split(key)
        setting = family.sample(keys[0])
        return setting, begin(build(theta, horizon), family.task(setting), keys[1])

    setting, inner = jax.vmap(one)(keys, horizons)
    if estimator.method == "persistent":
        inner = jax.tree.map(lambda a: jnp.stack([a, a]), inner)
        xi = jax.tree.map(lambda a: jnp.zeros((len(keys), *a.shape), a.dtype), theta)
    else:
        xi = jnp.zeros(len(keys))  # nothing to keep
    return Carried(setting, inner, xi, horizons)


def _choose(ended, fresh: Carried, carried: Carried, estimator: Estimator) -> Carried:
    def along(axis):
        def pick(a, b):
            shape = [1] * a.ndim
            shape[axis] = len(ended)
            return jnp.where(ended.reshape(shape), a, b)

        return pick

    first = int(estimator.method == "persistent")
    return Carried(
        jax.tree.map(along(0), fresh.setting, carried.setting),
        jax.tree.map(along(first), fresh.inner, carried.inner),
        jax.tree.map(along(0), fresh.xi, carried.xi),
        along(0)(fresh.horizon, carried.horizon),
    )


# Perturbations ------------------------------------------------------------------------------------


def _normal_like(key, theta):
    leaves, structure = jax.tree.flatten(theta)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        structure,
        [jax.random.normal(k, a.shape, a.dtype) for k, a in zip(keys, leaves, strict=True)],
    )


def _moved(theta, noise, scale):
    """theta + scale * noise for every task, leaves [N, ...]."""
    return jax.tree.map(lambda a, e: a[None] + scale * e, theta, noise)


def _bound(magnitude_N):
    """Three times the median of those that are finite."""
    finite = jnp.where(jnp.isfinite(magnitude_N), magnitude_N, jnp.nan)
    return 3 * jnp.nan_to_num(jnp.nanmedian(finite)) + 1e-12


def _shaped(difference_N, shaping: Shaping):
    if shaping == "sign":
        return jnp.nan_to_num(jnp.sign(difference_N), nan=0.0)
    if shaping == "clipped":
        bound = _bound(jnp.abs(difference_N))
        return jnp.clip(jnp.nan_to_num(difference_N, nan=0.0), -bound, bound)
    return difference_N


def _mean_loss(losses, estimator: Estimator):
    if estimator.shaping == "difference":
        return jnp.mean(losses)
    return jnp.nanmean(jnp.where(jnp.isfinite(losses), losses, jnp.nan))


def _mean_gradient(grads, estimator: Estimator):
    """Of gradients [N, ...], each clipped where that is asked for."""
    if estimator.shaping == "difference":
        return jax.tree.map(lambda g: g.mean(0), grads)
    norm_N = jax.vmap(optax.tree.norm)(grads)
    scale_N = jnp.minimum(1, _bound(norm_N) / jnp.maximum(norm_N, 1e-12))

    def mean(g):
        shape = (-1,) + (1,) * (g.ndim - 1)
        finite = jnp.isfinite(norm_N).reshape(shape)
        return jnp.mean(jnp.where(finite, g * scale_N.reshape(shape), 0), axis=0)

    return jax.tree.map(mean, grads)


def _weighted_mean(weights_N, noise):
    return jax.tree.map(lambda e: jnp.tensordot(weights_N, e, axes=1) / len(weights_N), noise)
