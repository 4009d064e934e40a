"""Checks of arguments that all learners share."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ico.types import Prompt, PyTree


def check_prompt(prompt: Prompt) -> None:
    """Raises ValueError unless x [B, N, D], y [B, N, K] and x_query [B, Q, D] fit together."""
    x, y, query = prompt
    for name, array in (("x", x), ("y", y), ("x_query", query)):
        if array.ndim != 3:
            raise ValueError(f"prompt.{name} must have three axes, not shape {array.shape}")
    B, N, D = x.shape
    if y.shape[:2] != (B, N):
        raise ValueError(f"prompt.y must be [{B}, {N}, K] as prompt.x, not {y.shape}")
    if (query.shape[0], query.shape[2]) != (B, D):
        raise ValueError(f"prompt.x_query must be [{B}, Q, {D}] as prompt.x, not {query.shape}")


def parameter(
    params: PyTree, name: str, dtype: Any, *shapes: tuple[int, ...], default: Any = None
) -> Array:
    """`params[name]` as an array of the prompt's dtype.

    Args:
      params: a mapping.
      name: its key.
      dtype: of the result. A float64 rate would otherwise change the dtype of float32 weights.
      shapes: the shapes allowed; any, if none are given.
      default: the value if the key is missing; None: it must be given.

    Raises:
      ValueError: a missing parameter, or another shape.
    """
    value = params.get(name, default)
    if value is None:
        raise ValueError(f"params needs {name!r}, and has {sorted(params)}")
    value = jnp.asarray(value, dtype)
    if shapes and value.shape not in shapes:
        allowed = " or ".join(str(list(shape)) if shape else "a scalar" for shape in shapes)
        raise ValueError(f"{name} must be {allowed}, not of shape {value.shape}")
    return value
