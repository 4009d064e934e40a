"""Newton's method on the context.

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs, S steps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.algorithms._checks import check_prompt, parameter
from ico.algorithms._least_squares import least_squares
from ico.types import Prompt, PyTree, working_dtype


def newton(
    params: PyTree, prompt: Prompt, *, num_steps: int = 1, all_steps: bool = False
) -> Float[Array, "*S B Q K"]:
    """Damped Newton steps, `W <- W - rate g (H + damping I)^-1`, then `W x_query`.

    g and H are gradient and Hessian of `L(W) = 1/(2N) sum_i |W x_i - y_i|^2`. With rate 1 one step
    from zero is ridge regression with penalty `damping N`; more steps remove the penalty's bias.

    Args:
      params: {"rate": scalar, "damping": scalar, at least 0; optional "w0": start [K, D]}. Without
        damping a step is the smallest of those that lead to the best fit.
      prompt, num_steps, all_steps: see `gd`.

    Raises:
      ValueError: mismatched shapes, or num_steps < 1.
    """
    check_prompt(prompt)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    K, D = prompt.y.shape[-1], prompt.x.shape[-1]
    dtype = working_dtype(*prompt)
    x_BND, y_BNK, query_BQD = (a.astype(dtype) for a in prompt)
    B, N, _ = x_BND.shape
    rate, damping = (parameter(params, name, dtype, ()) for name in ("rate", "damping"))
    w0 = parameter(params, "w0", dtype, (K, D), default=jnp.zeros((K, D)))
    # (H + damping)^-1 g is ridge regression on the errors, with penalty N damping.
    fit = least_squares(x_BND, jnp.broadcast_to(N * damping, (B,)))

    def step(w_BDK, _):
        w_BDK = w_BDK - rate * fit(x_BND @ w_BDK - y_BNK)
        return w_BDK, query_BQD @ w_BDK

    start_BDK = jnp.broadcast_to(w0.T, (B, D, K))
    _, predictions = jax.lax.scan(step, start_BDK, length=num_steps)
    predictions = predictions.astype(prompt.y.dtype)
    return predictions if all_steps else predictions[-1]
