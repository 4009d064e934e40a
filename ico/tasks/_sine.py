"""Sine regression, the nonlinear task (2212.07677, Fig. 4).

Dimension key: B tasks, N context pairs, Q queries, X points.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

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


def sine_through(
    x: Float[np.ndarray, "B N"], y: Float[np.ndarray, "B N"], at: Float[np.ndarray, "X"]
) -> Float[np.ndarray, "B X"]:
    """The curve `a sin(x + phase)` through each task's points, at other points; two determine it.

    It is linear in sin x and cos x, so least squares finds it.
    """

    def basis(x):
        return np.stack([np.sin(x), np.cos(x)], axis=-1)

    found = [np.linalg.lstsq(basis(x_N), y_N, rcond=None)[0] for x_N, y_N in zip(x, y, strict=True)]
    return np.stack(found) @ basis(at).T
