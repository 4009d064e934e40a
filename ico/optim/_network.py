"""The small networks inside learned optimizers.

Dimension key: I inputs, O outputs.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key


def network_init(key: Key[Array, ""], widths: Sequence[int]) -> dict[str, Any]:
    """An MLP's parameters, {"dense_0": {"kernel", "bias"} ...}; the last layer is zero."""
    layers = {}
    keys = jax.random.split(key, len(widths) - 1)
    for i, (fan_in, fan_out) in enumerate(zip(widths, widths[1:], strict=False)):
        kernel = jax.random.normal(keys[i], (fan_in, fan_out)) * (2 / fan_in) ** 0.5
        last = i == len(widths) - 2
        layers[f"dense_{i}"] = {
            "kernel": jnp.zeros_like(kernel) if last else kernel,
            "bias": jnp.zeros(fan_out),
        }
    return layers


def apply_network(layers: dict[str, Any], x: Float[Array, "... I"]) -> Float[Array, "... O"]:
    """The MLP, ReLU between its layers."""
    for i in range(len(layers)):
        layer = layers[f"dense_{i}"]
        x = jax.nn.relu(x) if i else x
        x = x @ layer["kernel"] + jnp.expand_dims(layer["bias"], range(x.ndim - 1))
    return x
