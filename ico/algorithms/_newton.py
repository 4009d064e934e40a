"""Newton's method on the context.

Dimension key: B tasks, N context pairs, Q queries, D inputs, K outputs, S steps.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ico.algorithms._checks import check_prompt, parameter
from ico.algorithms._linear_solve import solve_positive_definite
from ico.types import Prompt, PyTree


def newton(
    params: PyTree, prompt: Prompt, *, num_steps: int = 1, all_steps: bool = False
) -> Float[Array, "*S B Q K"]:
    """Damped Newton steps, `W <- W - rate g (H + damping I)^-1`, then `W x_query`.

    g and H are gradient and Hessian of `L(W) = 1/(2N) sum_i |W x_i - y_i|^2`. With rate 1 one step
    from zero is ridge regression with penalty `damping N`; more steps remove the penalty's bias.

    Args:
      params: {"rate": scalar, "damping": scalar > 0; optional "w0": start [K, D]}.
      prompt, num_steps, all_steps: see `gd`.

    Raises:
      ValueError: mismatched shapes, or num_steps < 1.
    """
    check_prompt(prompt)
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, not {num_steps}")
    x_BND, y_BNK, query_BQD = prompt
    B, N, D = x_BND.shape
    K = y_BNK.shape[-1]
    rate, damping = (parameter(params, name, x_BND.dtype, ()) for name in ("rate", "damping"))
    eye_DD = jnp.eye(D, dtype=x_BND.dtype)
    hessian_BDD = jnp.einsum("bnd,bne->bde", x_BND, x_BND) / N + damping * eye_DD[None]
    w0 = parameter(params, "w0", x_BND.dtype, (K, D), default=jnp.zeros((K, D)))
    w_BDK = jnp.broadcast_to(w0.T, (B, D, K))

    def step(w_BDK, _):
        error_BNK = jnp.einsum("bnd,bdk->bnk", x_BND, w_BDK) - y_BNK
        gradient_BDK = jnp.einsum("bnd,bnk->bdk", x_BND, error_BNK) / N
        w_BDK = w_BDK - rate * solve_positive_definite(hessian_BDD, gradient_BDK)
        return w_BDK, jnp.einsum("bqd,bdk->bqk", query_BQD, w_BDK)

    _, predictions = jax.lax.scan(step, w_BDK, length=num_steps)
    return predictions if all_steps else predictions[-1]
