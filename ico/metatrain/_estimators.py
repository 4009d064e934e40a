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
import optax
from jaxtyping import Array, Float, Int, Key

from ico.metatrain._tasks import Inner, TaskFamily, begin, inner_step

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
      meta_loss: of whole trainings, of the losses of batches before each step: their "mean"; the
        mean of the "last" tenth; or half of each, "mixed". Stretches always take the mean.
      shaping: what stands for the difference of the pair's losses: itself, its "sign", or itself
        "clipped" at three times the mean magnitude over pairs. Only the first is unbiased.

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


def _whole(build: Build, family: TaskFamily, estimator: Estimator, horizon, longest: int):
    """(theta, key) -> meta-loss of one training of `horizon` steps, at most `longest`.

    Differentiable where horizon is a Python number; else a loop of exactly as many steps.
    """

    def loss(theta, key):
        keys = jax.random.split(key, 3)
        task = family.task(family.sample(keys[0]))
        optimizer = build(theta, horizon)
        late = jnp.ceil(0.9 * jnp.asarray(horizon, jnp.float32)).astype(jnp.int32)
        late = jnp.minimum(late, jnp.asarray(horizon) - 1)

        def step(t, state):
            inner, total, last = state
            inner, value = inner_step(optimizer, task, inner, jax.random.fold_in(keys[2], t))
            return inner, total + value, last + jnp.where(t >= late, value, 0)

        state = (begin(optimizer, task, keys[1]), jnp.zeros(()), jnp.zeros(()))
        if isinstance(horizon, int):
            state, _ = jax.lax.scan(
                lambda state, t: (step(t, state), None), state, jnp.arange(longest)
            )
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
    horizon: int | Int[Array, ""],
) -> tuple[Float[Array, ""], PyTree]:
    """Meta-loss, mean over tasks, and its gradient, by "unrolled" or "evolution".

    Args:
      build: (theta, horizon) -> optimizer.
      family, estimator: what and how.
      theta: where.
      keys: one a task.
      horizon: inner steps; traced ones with "evolution" alone.
    """
    loss = _whole(build, family, estimator, horizon, horizon if isinstance(horizon, int) else 0)
    if estimator.method == "unrolled":

        def mean(theta):
            return jnp.mean(jax.vmap(loss, (None, 0))(theta, keys))

        return jax.value_and_grad(mean)(theta)
    keys = jax.vmap(jax.random.split)(keys)  # [N, 2]: perturbations, tasks
    noise = jax.vmap(lambda key: _normal_like(key, theta))(keys[:, 0])
    up, down = (
        jax.vmap(loss)(_moved(theta, noise, sign * estimator.sigma), keys[:, 1]) for sign in (1, -1)
    )
    weights = _shaped(up - down, estimator.shaping) / (2 * estimator.sigma)
    return jnp.mean(0.5 * (up + down)), _weighted_mean(weights, noise)


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

    Their step counts start at a random multiple of the truncation, so that not all end at once; a
    training that begins late is shorter.
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
            return inner_step(optimizer, task, inner, jax.random.fold_in(key, t))

        inner, losses = jax.lax.scan(step, inner, jnp.arange(estimator.truncation))
        return jnp.mean(losses), inner

    if estimator.method == "truncated":

        def mean(theta):
            given = carried.setting, jax.lax.stop_gradient(carried.inner), carried.horizon
            losses, inner = jax.vmap(stretch, (None, 0, 0, 0, 0))(theta, *given, keys[:, 1])
            return jnp.mean(losses), inner

        (loss, inner), gradient = jax.value_and_grad(mean, has_aux=True)(theta)
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
    return jnp.mean(losses), _weighted_mean(weights, xi), carried._replace(inner=inner, xi=xi)


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


def _shaped(difference_N, shaping: Shaping):
    if shaping == "sign":
        return jnp.sign(difference_N)
    if shaping == "clipped":
        # Diverged trainings among them: not finite counts as the bound.
        finite = jnp.where(jnp.isfinite(difference_N), jnp.abs(difference_N), 0)
        bound = 3 * jnp.mean(finite) + 1e-12
        return jnp.clip(jnp.nan_to_num(difference_N, nan=0.0), -bound, bound)
    return difference_N


def _weighted_mean(weights_N, noise):
    return jax.tree.map(lambda e: jnp.tensordot(weights_N, e, axes=1) / len(weights_N), noise)
