"""What the machine can do: one large matrix product, for context."""

import jax
import jax.numpy as jnp

from benchmarks._measure import Row, median_row, take_turns

SIZE = 2048


def run() -> list[Row]:
    """A float32 product of two SIZE x SIZE matrices."""
    a, b = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE), jnp.float32)
    product = jax.jit(jnp.matmul)
    seconds = take_turns({"": lambda: product(a, b).block_until_ready()}, rounds=7)[""]
    return [
        median_row(
            f"{SIZE} x {SIZE} matrix product, float32",
            [2 * SIZE**3 / s / 1e9 for s in seconds],
            "GFLOP/s",
        )
    ]
