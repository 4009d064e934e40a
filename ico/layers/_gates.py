"""Forget factors, given as such or by their logarithms.

Inside the layers a factor is a logarithm, because decay over many positions is then a sum. Zero is
a legitimate factor: it resets the memory. Its logarithm is replaced by a large negative number.

"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float


def check_gates(
    forget: Float[Array, "*shape"] | None,
    log_forget: Float[Array, "*shape"] | None,
    shape: tuple[int, ...],
) -> None:
    """Raises ValueError unless at most one is given, of this shape, as factors in [0, 1].

    Values are checked where they are known, that is, outside of `jax.jit`.
    """
    if forget is not None and log_forget is not None:
        raise ValueError("give forget or log_forget, its logarithm, and not both")
    for name, gate in (("forget", forget), ("log_forget", log_forget)):
        if gate is None:
            continue
        if gate.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, not {list(gate.shape)}")
        if isinstance(gate, jax.core.Tracer):
            continue
        known = np.asarray(gate, np.float64)
        if name == "forget" and not np.all((known >= 0) & (known <= 1)):
            raise ValueError("forget must lie between 0 and 1")
        if name == "log_forget" and not np.all(known <= 0):
            raise ValueError("log_forget must be at most 0, as logarithms of factors up to 1 are")


def factors(forget, log_forget, dtype) -> Float[Array, "*shape"] | None:
    """The factors themselves; None if nothing is forgotten."""
    if log_forget is not None:
        return jnp.exp(log_forget.astype(dtype))
    return None if forget is None else forget.astype(dtype)


def logarithms(forget, log_forget, dtype) -> Float[Array, "*shape"] | None:
    """The logarithms, all of them finite; None if nothing is forgotten.

    What is below the smallest factor, 5e-31 in float32, counts as the smallest. The derivative with
    respect to a factor of zero is then that at the smallest, which is what it is in the limit.
    """
    least = _smallest(dtype)
    if log_forget is not None:
        log = log_forget.astype(dtype)
        return jnp.where(log < math.log(least), math.log(least), log)
    if forget is None:
        return None
    f = forget.astype(dtype)
    return jnp.log(f + jax.lax.stop_gradient(jnp.maximum(f, least) - f))


def resets(log_forget: Float[Array, "*shape"]) -> Bool[Array, "*shape"]:
    """Where the factor is zero, or so small that nothing is left, from `logarithms`."""
    return log_forget < 0.99 * math.log(_smallest(log_forget.dtype))


def _smallest(dtype) -> float:
    """Far enough above underflow that its products with other numbers have a derivative."""
    return float(jnp.finfo(dtype).tiny) ** 0.8


def in_two_parts(
    log_forget: Float[Array, "*shape"],
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Two parts with this sum: multiples of 1/16, and what is left over.

    A running sum of logarithms reaches thousands where gates are strong, and the difference of two
    nearby entries is then mostly rounding. Sums of the first part are exact, and those of the
    second are small. Where no factor is below 0.969 the first part is zero.
    """
    coarse = jax.lax.stop_gradient(jnp.round(log_forget * 16) / 16)
    return coarse, log_forget - coarse
