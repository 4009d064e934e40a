"""Gradients of a meta-loss with respect to what an optimizer learned.

Four estimators, each over N tasks side by side (`vmap`; the keys' axis may be sharded):

- `unrolled`: backpropagation through whole inner trainings.
- `truncated`: backpropagation through one truncation window at a time; the unroll state at its
  start is taken as a constant.
- `evolution`: antithetic evolution strategies over whole trainings,
      g = mean (L(theta + sigma e) - L(theta - sigma e)) / (2 sigma) e,
  the gradient of the smoothed meta-loss E[L(theta + sigma e)] (Salimans et al., 1703.03864).
- `persistent`: persistent evolution strategies (PES, Vicol et al., 2112.13835) over truncation
  windows, antithetic: each particle keeps its unroll state, and e is replaced by xi, the sum of its
  perturbations since its training began. Unlike truncation it is unbiased, for the smoothed loss of
  whole trainings in which theta is perturbed anew in every window.

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
      num_tasks: N; for evolution strategies the number of antithetic pairs.
      sigma: standard deviation of perturbations.
      truncation: steps in a truncation window, for "truncated" and "persistent".
      meta_loss: how whole trainings are judged by the losses at each step (see `Task.meta_batch`):
        their "mean"; the mean of the "last" tenth; or the average of both, "mixed". Truncation
        windows always take the mean.
      shaping: what weights a pair's perturbation: the "difference" of its losses, the "sign" of
        that (evolution strategies alone), or the difference "clipped" at three times its median
        magnitude over pairs. With backpropagation "clipped" clips the norm of each task's gradient
        likewise. "sign" and "clipped" leave out diverged trainings (pairs of which both diverged).
        Only "difference" is unbiased.

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
    def truncates(self) -> bool:
        """Whether inner trainings continue from one gradient to the next."""
        return self.method in ("truncated", "persistent")


class UnrollState(NamedTuple):
    """Inner trainings under way, one for each task.

    Fields:
      setting: what tells the task from others of its family (`TaskFamily.sample`).
      inner: parameters, optimizer state and steps done; with "persistent" those of both trainings
        of a pair, on a leading axis of two.
      xi: the sum of perturbations since the training began.
      horizon: the training's length in steps.
    """

    setting: PyTree
    inner: Inner
    xi: PyTree
    horizon: Int[Array, "N"]


# Whole trainings ----------------------------------------------------------------------------------


def _whole(build: Build, family: TaskFamily, estimator: Estimator, longest: int):
    """(theta, key, horizon) -> meta-loss of one training of `horizon` steps.

    With "unrolled" it is differentiable: a scan of `longest` steps, of which those after the
    horizon change nothing. Else it is a loop of `horizon` steps.
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
      family: the tasks.
      estimator: the method.
      theta: the optimizer's parameters.
      keys: one for each task.
      horizon: inner steps of all trainings, or (with "unrolled") of each.
      longest: an upper bound of the horizon, needed for "unrolled" where the horizon is traced.

    Returns:
      The meta-loss, and a gradient like theta.
    """
    if longest is None:
        longest = int(np.max(np.asarray(horizon))) if estimator.method == "unrolled" else 0
    loss = _whole(build, family, estimator, longest)
    if estimator.method == "unrolled":
        horizons = jnp.broadcast_to(jnp.asarray(horizon, jnp.int32), (len(keys),))
        losses, grads = jax.vmap(jax.value_and_grad(loss), (None, 0, 0))(theta, keys, horizons)
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


# Truncation windows -------------------------------------------------------------------------------


def begin_unrolls(
    build: Build,
    family: TaskFamily,
    estimator: Estimator,
    theta: PyTree,
    keys: Key[Array, "N"],
    horizons: Int[Array, "N"],
) -> UnrollState:
    """Unroll states before the first step.

    Each first training is shorter than its horizon by a random number of truncation windows, so
    that not all end at once.

    Args:
      build, family, estimator, theta: see `whole_gradient`.
      keys: one for each task.
      horizons: of the trainings; multiples of the truncation window.
    """
    fresh = _fresh(build, family, estimator, theta, keys, horizons)
    windows = jnp.maximum(horizons // estimator.truncation, 1)
    ages = jax.vmap(lambda key, n: jax.random.randint(jax.random.fold_in(key, 2**17), (), 0, n))(
        keys, windows
    )
    left = (windows - ages) * estimator.truncation
    return fresh._replace(horizon=left)


def window_gradient(
    build: Build,
    family: TaskFamily,
    estimator: Estimator,
    theta: PyTree,
    unrolls: UnrollState,
    keys: Key[Array, "N"],
    horizons: Int[Array, "N"],
) -> tuple[Float[Array, ""], PyTree, UnrollState]:
    """Continues every training by one truncation window, by "truncated" or "persistent".

    Trainings that have reached their horizon are first replaced by new ones: another task, start
    and horizon, and (PES) a sum of perturbations of zero.

    Args:
      build, family, estimator, theta: see `whole_gradient`.
      unrolls: the trainings.
      keys: one for each task.
      horizons: of new trainings; multiples of the truncation window.

    Returns:
      The mean loss in the window, a gradient like theta, and the trainings after the window.
    """
    keys = jax.vmap(lambda key: jax.random.split(key, 3))(keys)  # [N, 3]
    fresh = _fresh(build, family, estimator, theta, keys[:, 0], horizons)
    step = unrolls.inner.step
    ended = (step[0] if estimator.method == "persistent" else step) >= unrolls.horizon
    unrolls = _choose(ended, fresh, unrolls, estimator)

    def window(theta, setting, inner, horizon, key):
        task, optimizer = family.task(setting), build(theta, horizon)

        def step(inner, t):
            return watched_step(optimizer, task, inner, jax.random.fold_in(key, t))

        inner, losses = jax.lax.scan(step, inner, jnp.arange(estimator.truncation))
        return jnp.mean(losses), inner

    if estimator.method == "truncated":
        given = unrolls.setting, jax.lax.stop_gradient(unrolls.inner), unrolls.horizon
        gradients = jax.vmap(jax.value_and_grad(window, has_aux=True), (None, 0, 0, 0, 0))
        (losses, inner), grads = gradients(theta, *given, keys[:, 1])
        loss, gradient = _mean_loss(losses, estimator), _mean_gradient(grads, estimator)
        return loss, gradient, unrolls._replace(inner=inner)
    noise = jax.vmap(lambda key: _normal_like(key, theta))(keys[:, 2])
    xi = jax.tree.map(jnp.add, unrolls.xi, noise)
    signs = estimator.sigma * jnp.array([1.0, -1.0])
    # [2, N]: the batches are common to a pair, the states are not.
    losses, inner = jax.vmap(
        lambda sign, inner: jax.vmap(window)(
            _moved(theta, noise, sign), unrolls.setting, inner, unrolls.horizon, keys[:, 1]
        )
    )(signs, unrolls.inner)
    weights = _shaped(losses[0] - losses[1], estimator.shaping) / (2 * estimator.sigma)
    loss = _mean_loss(losses, estimator)
    return loss, _weighted_mean(weights, xi), unrolls._replace(inner=inner, xi=xi)


def _fresh(build, family, estimator, theta, keys, horizons) -> UnrollState:
    def one(key, horizon):
        keys = jax.random.split(key)
        setting = family.sample(keys[0])
        return setting, begin(build(theta, horizon), family.task(setting), keys[1])

    setting, inner = jax.vmap(one)(keys, horizons)
    if estimator.method == "persistent":
        inner = jax.tree.map(lambda a: jnp.stack([a, a]), inner)
        xi = jax.tree.map(lambda a: jnp.zeros((len(keys), *a.shape), a.dtype), theta)
    else:
        xi = jnp.zeros(len(keys))  # not used
    return UnrollState(setting, inner, xi, horizons)


def _choose(ended, fresh: UnrollState, unrolls: UnrollState, estimator: Estimator) -> UnrollState:
    def along(axis):
        def pick(a, b):
            shape = [1] * a.ndim
            shape[axis] = len(ended)
            return jnp.where(ended.reshape(shape), a, b)

        return pick

    first = int(estimator.method == "persistent")
    return UnrollState(
        jax.tree.map(along(0), fresh.setting, unrolls.setting),
        jax.tree.map(along(first), fresh.inner, unrolls.inner),
        jax.tree.map(along(0), fresh.xi, unrolls.xi),
        along(0)(fresh.horizon, unrolls.horizon),
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
    """Three times the median of the finite magnitudes."""
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
    """Mean over tasks of gradients [N, ...], clipped as the estimator's shaping says."""
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
