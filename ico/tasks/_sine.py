"""Sine regression, the nonlinear task (2212.07677, Fig. 4).

Dimension key: B tasks, N context pairs, Q queries.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ico.tasks._random import uniform
from ico.types import Episode, Prompt


@dataclasses.dataclass(frozen=True)
class Sine:
    """`y = a sin(x + phase)`, x ~ U(-input_range/2, input_range/2), phase ~ U(0, pi).

    The amplitude is U(.1, .5), as in the authors' code (the paper's text says U(.1, 5)). Their code
    draws amplitude and phase with one key, so that one determines the other; here they are
    independent, as the paper describes, which makes the task harder.

    Raises:
      ValueError: a size below one.
    """

    batch_size: int = 2048
    num_context: int = 10
    num_queries: int = 1
    input_range: float = 10.0
    amplitude: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self):
        for name in ("batch_size", "num_context", "num_queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def sine(key: Key[Array, ""], config: Sine = Sine()) -> Episode:
    """A batch of sine tasks; prompt.x [B, N, 1], prompt.y [B, N, 1]."""
    c = config
    x_key, amplitude_key, phase_key = jax.random.split(key, 3)
    shape = (c.batch_size, c.num_context + c.num_queries, 1)
    x = uniform(x_key, shape, -c.input_range / 2, c.input_range / 2)
    amplitude = uniform(amplitude_key, (c.batch_size, 1, 1), *c.amplitude)
    phase = uniform(phase_key, (c.batch_size, 1, 1), 0.0, math.pi)
    y = amplitude * jnp.sin(x + phase)
    n = c.num_context
    return Episode(Prompt(x[:, :n], y[:, :n], x[:, n:]), y[:, n:])
