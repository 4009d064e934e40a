"""The few types everybody uses.

Dimension key: B tasks in a batch, N context pairs, Q queries, D inputs, K outputs, T positions.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

PyTree = Any


class Prompt(NamedTuple):
    """An in-context problem without its answer: N labelled pairs and Q questions a task."""

    x: Float[Array, "B N D"]
    y: Float[Array, "B N K"]
    x_query: Float[Array, "B Q D"]


class Episode(NamedTuple):
    """A prompt with its answer."""

    prompt: Prompt
    y_query: Float[Array, "B Q K"]


class Statistics(NamedTuple):
    """Sums over a context's N pairs with one output: all that linear attention sees of it.

    In the basis of a context's own eigenvectors `xx` is diagonal, and may be given as [B, D].
    """

    xx: Float[Array, "B D D"] | Float[Array, "B D"]  # sum of x x^T
    xy: Float[Array, "B D"]  # sum of y x
    yy: Float[Array, "B"]  # sum of y^2


class Sequence(NamedTuple):
    """Autoregressive work: tokens [B, T] or features [B, T, ...], what to predict, and where.

    `mask` is True where a target counts; `segment_ids` tells packed sequences apart.
    """

    inputs: PyTree
    targets: PyTree
    mask: PyTree = None
    segment_ids: PyTree = None


class TokenBatch(NamedTuple):
    """Rows of token ids to predict the next token in; `mask` is 1 where a token is a target."""

    ids: Int[np.ndarray | Array, "B T"]
    mask: Float[np.ndarray | Array, "B T"]


# A learner maps parameters and a prompt to predictions [B, Q, K], or to [S, B, Q, K], one a step
# or layer. Gradient descent, ridge regression and a linear transformer are all learners.
Learner = Callable[[PyTree, Prompt], Array]
Sampler = Callable[[Any], Episode]
