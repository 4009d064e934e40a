"""Regression between the columns of a real table.

Dimension key: R rows, C columns, B tasks, N context pairs, Q queries, D inputs.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ico.types import Episode, Prompt


@dataclasses.dataclass(frozen=True)
class Tabular:
    """A random column is the target, the others are the inputs, random rows the pairs.

    Fields:
      batch_size, num_context, num_queries: B, N, Q. No row occurs twice in a task.
      input_std: standard deviation of the scaled inputs. 1/sqrt(12) is that of the training
        distribution U(-1/2, 1/2); the update of a linear transformer is cubic in its inputs' scale.
      target_std: standard deviation of the scaled targets.
      num_inputs: D; this many of the other columns, drawn for each task; 0: all C - 1.
      whiten: whether to whiten the inputs, by the covariance of the rows outside the task.
        Variances are floored at a thousandth of the largest.

    Raises:
      ValueError: a size below one, or a negative num_inputs.
    """

    batch_size: int = 1024
    num_context: int = 20
    num_queries: int = 1
    input_std: float = 1 / math.sqrt(12)
    target_std: float = 1.0
    num_inputs: int = 0
    whiten: bool = False

    def __post_init__(self):
        for name in ("batch_size", "num_context", "num_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.num_inputs < 0:
            raise ValueError(f"num_inputs must be at least 0, not {self.num_inputs}")


def tabular(
    key: Key[Array, ""], table: Float[Array | np.ndarray, "R C"], config: Tabular = Tabular()
) -> Episode:
    """Tasks from a table [R, C]; prompt.x [B, N, D], prompt.y [B, N, 1].

    Inputs and target are standardised by the means and standard deviations of the rows **outside**
    the task, so that no information about the queries leaks into the prompt.

    Raises:
      ValueError: fewer than N + Q + 2 rows, or fewer than two columns or D + 1.
    """
    c = config
    table = jnp.asarray(table)
    rows, columns = table.shape
    taken = c.num_context + c.num_queries
    if rows < taken + 2:
        raise ValueError(f"a task of {taken} rows needs a table of {taken + 2}, not {rows}")
    if columns < 2:
        raise ValueError(f"a table needs an input and a target column, got {columns}")
    if columns < c.num_inputs + 1:
        raise ValueError(f"num_inputs {c.num_inputs} and a target need more columns than {columns}")

    def task(key):
        row_key, target_key = jax.random.split(key)
        order_R = jax.random.permutation(row_key, rows)
        inside, outside = table[order_R[:taken]], table[order_R[taken:]]
        deviation = outside.std(0, keepdims=True)
        # A column that is constant outside the task has no scale: it is only centred.
        deviation = jnp.where(deviation > 0, deviation, 1)
        mean = outside.mean(0, keepdims=True)
        inside, outside = ((a - mean) / deviation for a in (inside, outside))
        target = jax.random.randint(target_key, (), 0, columns)
        # The C - 1 columns after the target, cyclically.
        others = (target + 1 + jnp.arange(columns - 1)) % columns
        if c.num_inputs:
            others = jax.random.permutation(jax.random.fold_in(key, 2), others)[: c.num_inputs]
        x, y = inside[:, others], c.target_std * inside[:, target][:, None]
        if c.whiten:
            x = x @ _whitening(outside[:, others])
        x, n = c.input_std * x, c.num_context
        return Episode(Prompt(x[:n], y[:n], x[n:]), y[n:])

    return jax.vmap(task)(jax.random.split(key, c.batch_size))


def _whitening(rows_RD):
    """The matrix [D, D] that makes the columns of these rows uncorrelated, with variance one."""
    variance_D, axes_DD = jnp.linalg.eigh(rows_RD.T @ rows_RD / len(rows_RD))
    floor = 1e-3 * variance_D[-1] + jnp.finfo(rows_RD.dtype).tiny
    scale_D = jnp.sqrt(jnp.maximum(variance_D, floor))
    return axes_DD / scale_D[None] @ axes_DD.T
