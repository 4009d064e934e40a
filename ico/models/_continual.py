"""A HyperTransformer whose written weights are fed back for the next task: they are the memory.

Source: "Continual HyperTransformer", Vladymyrov et al. 2023 (2301.04584). Verified: the recursion,
and the prototypical loss with prototypes that are stored when their task is seen. UNVERIFIED: all
sizes, and which moments images are normalised with: here those of all images that a network is
asked about, whatever their task, so that nothing but the image tells tasks apart.

Dimension key: B sequences, T tasks in order, N support images and Q queries of a task, K classes of
a task, D pixels, P width of the embedding.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.core import unfreeze
from jaxtyping import Array, Float

from ico.algorithms import class_means
from ico.models._convnet import convnet, init_convnet
from ico.models._hypertransformer import HyperTransformer
from ico.types import Prompt

Memory = Literal["recursive", "none", "fixed"]


class TaskSequence(NamedTuple):
    """Tasks that are learned one after the other; `y` is one-hot within a task."""

    x: Float[Array, "B T N D"]
    y: Float[Array, "B T N K"]
    x_query: Float[Array, "B T Q D"]
    y_query: Float[Array, "B T Q K"]


class ContinualHyperTransformer(nn.Module):
    """Networks for a sequence of tasks, and what each of them says of all tasks so far.

    Fields:
      writer: the HyperTransformer; its `outputs` are P, or K with `prototypes=False`.
      memory: "recursive", each network is written from the one before; "none", each from the
        learned start, so that earlier tasks are forgotten; "fixed", the learned start is the
        network of all tasks, which is a ProtoNet.
      prototypes: whether classes are told apart by the distance to the mean embedding of their
        support images, stored when their task was seen; else the outputs are logits.
      same_classes: whether all tasks have the same classes, a large support set in parts: then the
        prototypes of the parts seen so far are averaged (UNVERIFIED), and K2 is K.
    """

    writer: HyperTransformer
    memory: Memory = "recursive"
    prototypes: bool = True
    same_classes: bool = False

    def setup(self):
        self.start = self.param("start", init_convnet, self.writer.shapes)

    def __call__(self, tasks: TaskSequence) -> Float[Array, "B T T Q K2"]:
        """Scores [b, t, s, q]: of query q of task s by the network after task t, where s <= t.

        K2 is T K: the classes of every task in order, those of tasks after t minus infinity. With
        logits or `same_classes` it is K, classes within the task.
        """
        B, T, N, D = tasks.x.shape
        # Linen freezes dicts that are attributes.
        start = jax.tree.map(
            lambda leaf: jnp.broadcast_to(leaf[None], (B, *leaf.shape)), unfreeze(self.start)
        )

        def learn(module, before, task):
            x, y = task
            if module.memory == "fixed":
                return before, before
            prompt = Prompt(x, y, x[:, :0])
            weights, _ = module.writer.write(prompt, before)
            return (weights if module.memory == "recursive" else before), weights

        scan = nn.scan(learn, variable_broadcast="params", split_rngs={"params": False})
        by_task = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), (tasks.x, tasks.y))
        _, networks = scan(self, start, by_task)  # leaves [T, B, ...]
        return jnp.moveaxis(self._scores(networks, tasks), 0, 1)

    def _scores(self, networks, tasks: TaskSequence):
        B, T, N, _ = tasks.x.shape
        Q, image_shape = tasks.x_query.shape[2], self.writer.image_shape
        support = tasks.x.reshape(B, T, N, *image_shape)
        queries = tasks.x_query.reshape(B, T * Q, *image_shape)
        own = jax.vmap(jax.vmap(convnet))(networks, jnp.moveaxis(support, 1, 0))  # [T, B, N, P]
        means_TBKP = jax.vmap(class_means)(own, jnp.moveaxis(tasks.y, 1, 0))

        def after(t, weights):
            """What the network after task t says; images of later tasks do not count."""
            counted_Q = jnp.repeat((jnp.arange(T) <= t).astype(queries.dtype), Q)
            found = jax.vmap(lambda w, x: convnet(w, x, counted=counted_Q))(weights, queries)
            if not self.prototypes:
                return found.reshape(B, T, Q, -1)
            seen_T = (jnp.arange(T) <= t).astype(queries.dtype)
            if self.same_classes:
                means_BKP = jnp.einsum("t,tbkp->bkp", seen_T / (t + 1), means_TBKP)
            else:
                means_BKP = jnp.moveaxis(means_TBKP, 0, 1).reshape(B, -1, means_TBKP.shape[-1])
            gaps = found[:, :, None] - means_BKP[:, None]
            scores = -jnp.sum(gaps**2, axis=-1)
            if not self.same_classes:
                seen_K = jnp.repeat(seen_T > 0, tasks.y.shape[-1])
                scores = jnp.where(seen_K[None, None], scores, -jnp.inf)
            return scores.reshape(B, T, Q, -1)

        return jax.lax.map(lambda given: after(*given), (jnp.arange(T), networks))


@dataclasses.dataclass(frozen=True)
class ContinualLoss:
    """Cross-entropy of every network on all tasks that it has seen (2301.04584).

    Fields:
      across: whether an image's class is one of all classes seen so far (class-incremental), or of
        its own task (task-incremental).
    """

    across: bool = False

    def __call__(self, scores: Float[Array, "B T T Q K2"], tasks: TaskSequence) -> Array:
        """The mean over pairs of networks and earlier tasks, [] nats."""
        errors, _ = self.judged(scores, tasks)
        seen_TT = _seen(errors.shape[1])
        return (errors.mean((0, 3)) * seen_TT).sum() / seen_TT.sum()

    def accuracy(
        self, scores: Float[Array, "B T T Q K2"], tasks: TaskSequence
    ) -> Float[Array, "B T T"]:
        """Share of right answers by network and task; nothing (NaN) for tasks not yet seen."""
        _, right = self.judged(scores, tasks)
        return jnp.where(_seen(right.shape[1])[None] > 0, right.mean(-1), jnp.nan)

    def judged(self, scores: Array, tasks: TaskSequence) -> tuple[Array, Array]:
        """Errors in nats and right answers, each [B, T, T, Q]; zero for tasks not yet seen."""
        T, K = scores.shape[1], tasks.y_query.shape[-1]
        answer_BTQ = tasks.y_query.argmax(-1)
        own = scores
        if scores.shape[-1] != K:
            first_T = jnp.arange(T) * K
            if self.across:
                answer_BTQ = answer_BTQ + first_T[None, :, None]
            else:
                places_TK = first_T[:, None] + jnp.arange(K)[None]
                own = jnp.take_along_axis(scores, places_TK[None, None, :, None], axis=-1)
        # Of tasks not yet seen all scores are minus infinity; what is not used must stay finite.
        seen = (_seen(T) > 0)[None, :, :, None]
        safe = jnp.where(seen[..., None], own, 0.0)
        answer = jnp.broadcast_to(answer_BTQ[:, None], safe.shape[:-1])
        errors = (
            jax.nn.logsumexp(safe, axis=-1)
            - jnp.take_along_axis(safe, answer[..., None], axis=-1)[..., 0]
        )
        right = (safe.argmax(-1) == answer).astype(scores.dtype)
        return jnp.where(seen, errors, 0.0), jnp.where(seen, right, 0.0)


def _seen(T: int) -> Array:
    """[t, s]: whether task s is at or before task t."""
    return jnp.tri(T)


def backward_transfer(accuracy: Any) -> Any:
    """Mean over tasks but the last of accuracy at the end minus that when it was learned, [B]."""
    T = accuracy.shape[-1]
    learned = accuracy[..., range(T - 1), range(T - 1)]
    return (accuracy[..., T - 1, : T - 1] - learned).mean(-1)
