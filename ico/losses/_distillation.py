"""What a model learns from the answers and embeddings of others.

Dimension key: A answers of one input, N inputs, K classes, D width of an embedding.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key

TargetRule = Literal["confident", "random", "average"]


def soft_cross_entropy(
    logits: Float[Array, "*shape K"], targets: Float[Array, "*shape K"]
) -> Float[Array, "*shape"]:
    """`-sum_k p_k log softmax(logits)_k`, nats; targets are probabilities (1503.02531)."""
    return -jnp.sum(targets * jax.nn.log_softmax(logits), -1)


def choose_targets(
    logits: Float[Array, "A N K"],
    there: Bool[Array, "A"],
    rule: TargetRule = "confident",
    key: Key[Array, ""] | None = None,
) -> Float[Array, "N K"]:
    """One target for each input out of several answers, as probabilities; no gradient passes.

    Args:
      logits: the answers.
      there: which of them there are; one at least, or all targets are zero.
      rule: "confident": the answer whose largest probability is largest, input by input
        (2211.15774); "random": any of them, input by input; "average": their mean.
      key: of "random".

    Raises:
      ValueError: an unknown rule, or "random" without a key.
    """
    if rule not in get_args(TargetRule):
        raise ValueError(f"rule must be one of {get_args(TargetRule)}, not {rule!r}")
    p_ANK = jax.nn.softmax(jax.lax.stop_gradient(logits))
    there_A1 = there[:, None]
    if rule == "average":
        share_A = there / jnp.maximum(there.sum(), 1)
        return jnp.einsum("a,ank->nk", share_A, p_ANK)
    if rule == "random":
        if key is None:
            raise ValueError("rule 'random' needs a key")
        scores_AN = jax.random.uniform(key, p_ANK.shape[:2])
    else:
        scores_AN = p_ANK.max(-1)
    best_N = jnp.where(there_A1, scores_AN, -1.0).argmax(0)
    chosen = jnp.take_along_axis(p_ANK, best_N[None, :, None], axis=0)[0]
    return jnp.where(there.any(), chosen, 0.0)


def embedding_distance(a: Float[Array, "N D"], b: Float[Array, "N D"]) -> Float[Array, ""]:
    """The mean squared distance of embeddings brought to length one (2211.15774)."""
    a, b = (x * jax.lax.rsqrt((x**2).sum(-1, keepdims=True) + 1e-12) for x in (a, b))
    return ((a - b) ** 2).sum(-1).mean()
