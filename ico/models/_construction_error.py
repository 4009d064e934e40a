"""How exactly constructed weights are gradient descent.

Dimension key: B tasks, N context pairs, D inputs, K outputs.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from ico import algorithms
from ico.algorithms import constructions
from ico.models._learner import learner
from ico.models._linear_transformer import LinearTransformer
from ico.types import Prompt


def construction_error(
    key: Key[Array, ""],
    dtype: str,
    *,
    num_tasks: int = 32,
    num_context: int = 45,
    num_inputs: int = 12,
    num_outputs: int = 8,
    num_layers: int = 100,
    rate: float = 2.0,
) -> float:
    """The largest difference of predictions, over tasks and steps, between two descents.

    A tied `LinearTransformer` with the weights of Proposition 1 (2212.07677) and explicit gradient
    descent, both from the same random start W_0.

    Args:
      key: draws tasks and start.
      dtype: "float32" or "float64", of all arithmetic.
      num_tasks, num_context, num_inputs, num_outputs, num_layers: B, N, D, K and the steps.
      rate: of gradient descent.
    """
    B, N, D, K = num_tasks, num_context, num_inputs, num_outputs
    with jax.enable_x64(True):
        x_key, w_key, query_key, start_key = jax.random.split(key, 4)
        x = jax.random.uniform(x_key, (B, N, D), jnp.float64, -0.5, 0.5)
        w = jax.random.normal(w_key, (B, K, D), jnp.float64)
        query = jax.random.uniform(query_key, (B, 1, D), jnp.float64, -0.5, 0.5)
        w0 = jax.random.normal(start_key, (K, D), jnp.float64)
        prompt = Prompt(x, jnp.einsum("bnd,bkd->bnk", x, w), query)
        prompt, w0 = jax.tree.map(lambda a: a.astype(dtype), (prompt, w0))
        start = {"rate": jnp.asarray(rate, dtype), "w0": w0}
        sizes = {"num_inputs": D, "num_outputs": K, "num_layers": num_layers, "tied": True}
        model = LinearTransformer(**sizes, initial_weights=True)
        built = constructions.gd(start["rate"], num_context=N, w0=w0, **sizes)

        @jax.jit
        def largest_difference(built, prompt):
            by_weights = learner(model, all_layers=True)(built, prompt)
            explicit = algorithms.gd(start, prompt, num_steps=num_layers, all_steps=True)
            return jnp.abs(by_weights - explicit).max()

        return float(largest_difference(built, prompt))
