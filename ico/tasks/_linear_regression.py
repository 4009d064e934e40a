"""Linear regression tasks of "Transformers learn in-context by gradient descent" (2212.07677).

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs.
"""

import dataclasses
from typing import Literal, no_type_check

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ico.tasks._random import normal, uniform
from ico.types import Episode, Prompt

InputDistribution = Literal["uniform", "normal", "exponential", "laplace"]


@dataclasses.dataclass(frozen=True)
class LinearRegression:
    """`y = W x`, `W ~ N(0, weight_scale^2)` anew for each task.

    Fields:
      batch_size, num_inputs, num_outputs, num_context, num_queries: B, D, K, N, Q.
      inputs: "uniform" draws x from U(-input_range/2, input_range/2): the authors' code, input
        range 1 and so +-1/2 (the paper's text says +-1; its eigenvalues fit the code). The others
        are out of distribution: each task's inputs, queries too, are divided by the Frobenius norm
        of its context inputs and multiplied by input_range.
      input_range, weight_scale: scales, as above.
      num_distractors: number of context labels, at random places, that are replaced by N(0, 1)
        noise.

    Raises:
      ValueError: a size below one, or more distractors than pairs.
    """

    batch_size: int = 2048
    num_inputs: int = 10
    num_outputs: int = 1
    num_context: int = 10
    num_queries: int = 1
    inputs: InputDistribution = "uniform"
    input_range: float = 1.0
    weight_scale: float = 1.0
    num_distractors: int = 0

    def __post_init__(self):
        for name in ("batch_size", "num_inputs", "num_outputs", "num_context", "num_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.num_distractors <= self.num_context:
            raise ValueError(
                f"num_distractors must lie in 0..{self.num_context}, not {self.num_distractors}"
            )


# Its floats may be traced (see below), so the annotations are not enforced.
no_type_check(LinearRegression.__init__)


def linear_regression(
    key: Key[Array, ""], config: LinearRegression = LinearRegression()
) -> Episode:
    """A batch of linear regression tasks; prompt.x [B, N, D], prompt.y [B, N, K].

    `input_range` and `weight_scale` may be traced, so a sweep over them is one `vmap` of
    `dataclasses.replace(config, input_range=...)`.

    Raises:
      ValueError: an unknown distribution of inputs.
    """
    c = config
    x_key, w_key, distractor_key = jax.random.split(key, 3)
    x = _inputs(x_key, c)
    w_BKD = c.weight_scale * normal(w_key, (c.batch_size, c.num_outputs, c.num_inputs))
    # A matrix product: XLA computes an explicit sum of products here several times slower.
    y = jnp.einsum("bnd,bkd->bnk", x, w_BKD)
    y_context = y[:, : c.num_context]
    if c.num_distractors:
        y_context = _distract(distractor_key, y_context, c.num_distractors)
    prompt = Prompt(x[:, : c.num_context], y_context, x[:, c.num_context :])
    return Episode(prompt, y[:, c.num_context :])


def _inputs(key, c):
    shape = (c.batch_size, c.num_context + c.num_queries, c.num_inputs)
    if c.inputs == "uniform":
        return c.input_range * uniform(key, shape, -0.5, 0.5)
    if c.inputs == "normal":
        x = normal(key, shape)
    elif c.inputs == "exponential":
        x = -jnp.log1p(-uniform(key, shape))
    elif c.inputs == "laplace":
        u = uniform(key, shape, -1.0, 1.0)
        x = -jnp.sign(u) * jnp.log1p(-jnp.abs(u))
    else:
        raise ValueError(
            f"inputs must be uniform, normal, exponential or laplace, not {c.inputs!r}"
        )
    norm_B11 = jnp.linalg.norm(x[:, : c.num_context], axis=(1, 2), keepdims=True)
    return c.input_range * x / norm_B11


def _distract(key, y_BNK, count):
    place_key, noise_key = jax.random.split(key)
    # The `count` smallest of N random numbers mark a random subset of that size.
    order_BN = jnp.argsort(uniform(place_key, y_BNK.shape[:2]), axis=1)
    rank_BN = jnp.argsort(order_BN, axis=1)
    return jnp.where((rank_BN < count)[..., None], normal(noise_key, y_BNK.shape), y_BNK)
