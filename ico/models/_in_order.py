"""Training a network on one task after the other, with what others do against forgetting.

Dimension key: B sequences, T tasks in order, N support images and Q queries of a task, K classes of
a task, P pixels, D features.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ico.models._continual import TaskSequence
from ico.models._convnet import Weights, convnet_features

_TEMPERATURE = 2.0  # of learning without forgetting (1606.09282)


class _Learner(NamedTuple):
    """What has been learned, and what it costs to move it (2 and 3 are sums over tasks)."""

    body: Any
    heads: dict[str, Array]  # "kernel" [T, D, K], "bias" [T, K]
    fisher: Any  # sum of F_s
    anchored: Any  # sum of F_s times the body after task s


def learn_in_order(
    body: Weights,
    tasks: TaskSequence,
    image_shape: tuple[int, int, int],
    rate: float | Float[Array, ""],
    *,
    ewc: float | Float[Array, ""] = 0.0,
    lwf: float | Float[Array, ""] = 0.0,
    num_steps: int = 30,
) -> Float[Array, "B T T Q K"]:
    """Scores of a network that descends on the loss of each task in turn, with a head for each.

    Elastic weight consolidation (1612.00796) holds the body by the sum over earlier tasks s of
    `ewc / 2 F_s (w - w_s)^2`, F_s the diagonal of the Fisher information on the support images, in
    expectation over the network's own answers. Learning without forgetting (1606.09282) holds the
    answers of earlier heads on the new images, by `lwf` times the mean over these heads of 4 times
    the cross-entropy from what they were before the task, at temperature 2. Both zero: nothing is
    held.

    Args:
      body: convolutions to start from, as `ico.models.convnet_features` takes them.
      tasks: sequences; whose task an image is of is known.
      image_shape: (H, W, C).
      rate: of gradient descent.
      ewc, lwf: strengths.
      num_steps: on each task, with all of its support images.

    Returns:
      [b, t, s, q]: of query q of task s after task t, among the classes of s; zero for s > t.
    """
    body = {name: dict(layer) for name, layer in body.items() if name != "head"}

    def one(tasks):
        return _sequence(body, tasks, image_shape, rate, ewc, lwf, num_steps)

    return jax.vmap(one)(tasks)


def _sequence(body, tasks: TaskSequence, image_shape, rate, ewc, lwf, num_steps):
    (T, N, _), K = tasks.x.shape, tasks.y.shape[-1]
    x_TN = tasks.x.reshape(T, N, *image_shape)
    queries = tasks.x_query.reshape(-1, *image_shape)
    Q = len(queries) // T
    D = convnet_features(body, x_TN[0])[0].shape[-1]
    nothing = jax.tree.map(jnp.zeros_like, body)
    heads = {"kernel": jnp.zeros((T, D, K)), "bias": jnp.zeros((T, K))}

    def learn(state: _Learner, task):
        t, x, y = task
        before = _answers(state.body, state.heads, x)
        known_T = (jnp.arange(T) < t).astype(x.dtype)

        def loss(moving):
            body, heads = moving
            answers_TNK = _answers(body, heads, x)
            own = optax.softmax_cross_entropy(answers_TNK[t], y).mean()
            soft = jax.nn.softmax(before / _TEMPERATURE)
            kept = optax.softmax_cross_entropy(answers_TNK / _TEMPERATURE, soft).mean(-1)
            kept = _TEMPERATURE**2 * jnp.sum(known_T * kept) / jnp.maximum(t, 1)
            return own + lwf * kept + ewc * _elastic(body, state.fisher, state.anchored)

        def step(moving, _):
            return jax.tree.map(lambda w, g: w - rate * g, moving, jax.grad(loss)(moving)), None

        moving = state.body, state.heads
        (body, heads), _ = jax.lax.scan(step, moving, length=num_steps)
        found = _fisher(body, {name: leaf[t] for name, leaf in heads.items()}, x)
        fisher = jax.tree.map(jnp.add, state.fisher, found)
        anchored = jax.tree.map(lambda a, f, w: a + f * w, state.anchored, found, body)
        # As everywhere here, images of later tasks do not count in the normalisation.
        counted = jnp.repeat((jnp.arange(T) <= t).astype(x.dtype), Q)
        answers = _answers(body, heads, queries, counted).reshape(T, T, Q, K)
        own = answers[jnp.arange(T), jnp.arange(T)]
        scores = jnp.where((jnp.arange(T) <= t)[:, None, None], own, 0.0)
        return _Learner(body, heads, fisher, anchored), scores

    state = _Learner(body, heads, nothing, nothing)
    return jax.lax.scan(learn, state, (jnp.arange(T), x_TN, tasks.y))[1]


def _answers(body, heads: Mapping[str, Array], x, counted=None) -> Float[Array, "T N K"]:
    """Of every task's head."""
    features_ND, _ = convnet_features(body, x, counted=counted)
    return jnp.einsum("nd,tdk->tnk", features_ND, heads["kernel"]) + heads["bias"][:, None]


def _elastic(body, fisher, anchored):
    """Half the sum over s of F_s (w - w_s)^2, but for a constant."""
    parts = jax.tree.map(lambda w, f, a: jnp.sum(f * w**2 / 2 - a * w), body, fisher, anchored)
    return sum(jax.tree.leaves(parts))


def _fisher(body, head: Mapping[str, Array], x):
    """The mean over images of E_y[(d log p(y | x) / d w)^2], y drawn from the network itself."""

    def log_p(body):
        features, _ = convnet_features(body, x)
        return jax.nn.log_softmax(features @ head["kernel"] + head["bias"][None])

    p_NK = jax.lax.stop_gradient(jnp.exp(log_p(body)))
    slopes = jax.jacrev(log_p)(body)  # leaves [N, K, ...]
    return jax.tree.map(lambda g: jnp.einsum("nk,nk...->...", p_NK, g**2) / len(p_NK), slopes)
