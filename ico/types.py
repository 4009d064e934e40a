"""The few types everybody uses.

Dimension key: B tasks in a batch, N context pairs, Q queries, D inputs, K outputs, T positions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

PyTree = Any


def working_dtype(*arrays: Any) -> Any:
    """The dtype to compute in: the one that the arrays promote to, but float32 at least.

    Layers, norms, losses and solvers follow this one rule: half precision is for storing, and what
    goes in as bfloat16 or float16 comes out as it went in, rounded once, at the end.
    """
    return jnp.promote_types(jnp.result_type(*arrays), jnp.float32)


class Prompt(NamedTuple):
    """An in-context problem without its answer: N labelled pairs and Q queries per task."""

    x: Float[Array, "B N D"]
    y: Float[Array, "B N K"]
    x_query: Float[Array, "B Q D"]


class Episode(NamedTuple):
    """A prompt with its answer."""

    prompt: Prompt
    y_query: Float[Array, "B Q K"]


class Statistics(NamedTuple):
    """Sums over the N pairs of a context with one output, all that linear attention depends on.

    In the eigenbasis of sum x x^T, `xx` may be given as its diagonal, [B, D].
    """

    xx: Float[Array, "B D D"] | Float[Array, "B D"]  # sum of x x^T
    xy: Float[Array, "B D"]  # sum of y x
    yy: Float[Array, "B"]  # sum of y^2


class Sequence(NamedTuple):
    """An autoregressive problem: tokens [B, T] or features [B, T, ...] and what to predict.

    `mask` is True where a target counts in the loss; `segment_ids` separates packed sequences.
    """

    inputs: PyTree
    targets: PyTree
    mask: PyTree = None
    segment_ids: PyTree = None


class TokenBatch(NamedTuple):
    """Rows of token ids to predict the next token in; `mask` is 1 where a token is a target."""

    ids: Int[np.ndarray | Array, "B T"]
    mask: Float[np.ndarray | Array, "B T"]


# A learner maps parameters and a prompt to predictions [B, Q, K], or [S, B, Q, K] with one per step
# or layer. Gradient descent, ridge regression and a linear transformer are all learners.
Learner = Callable[[PyTree, Prompt], Array]
Sampler = Callable[[Any], Episode]
