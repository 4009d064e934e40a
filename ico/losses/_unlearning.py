"""Losses that make a language model forget some sequences and keep others.

All take log-likelihoods of whole sequences, nats, and are to be minimised. Formulas and defaults
are those of OpenUnlearning's code (2506.12618).

Dimension key: B sequences, T positions, D width of a hidden state.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def gradient_ascent(forget: Float[Array, "B"]) -> Float[Array, ""]:
    """`mean(log p)`: the likelihood of what is to be forgotten falls, without bound."""
    return forget.mean()


def gradient_difference(
    forget: Float[Array, "B"],
    retain: Float[Array, "B"],
    *,
    gamma: float = 1.0,
    alpha: float = 1.0,
) -> Float[Array, ""]:
    """`gamma mean(log p_f) - alpha mean(log p_r)`: ascent on the one, descent on the other.

    Args:
      forget, retain: log-likelihoods.
      gamma, alpha: weights.
    """
    return gamma * forget.mean() - alpha * retain.mean()


def npo(
    forget: Float[Array, "B"], reference: Float[Array, "B"], *, beta: float = 0.1
) -> Float[Array, ""]:
    """Negative preference optimisation (2404.05868): `-2/beta mean log s(-beta log(p / p_ref))`.

    Its gradient is that of ascent times a weight that falls to zero once p is far below p_ref; with
    beta to zero it is ascent's.

    Args:
      forget: log-likelihoods.
      reference: of the model before, which stays as it is.
      beta: how soon a sequence counts as forgotten.
    """
    ratio = forget - jax.lax.stop_gradient(reference)
    return -2 / beta * jax.nn.log_sigmoid(-beta * ratio).mean()


def simnpo(
    forget: Float[Array, "B"],
    lengths: Float[Array, "B"],
    *,
    beta: float = 4.5,
    delta: float = 0.0,
) -> Float[Array, ""]:
    """NPO without a reference (2410.07163): `-2/beta mean log s(-beta (log p / |y| + delta))`.

    Args:
      forget: log-likelihoods.
      lengths: tokens of each sequence.
      beta: how soon a sequence counts as forgotten.
      delta: nats a token that it has to be worse than.
    """
    return -2 / beta * jax.nn.log_sigmoid(-beta * (forget / lengths + delta)).mean()


def rmu(
    forget: Float[Array, "B T D"],
    retain: Float[Array, "B T D"],
    reference: Float[Array, "B T D"],
    direction: Float[Array, "D"],
    *,
    counted: tuple[Bool[Array, "B T"], Bool[Array, "B T"]],
    scale: float = 2.0,
    alpha: float = 1.0,
) -> Float[Array, ""]:
    """Representation misdirection (2403.03218): hidden states of a layer are pushed off, or held.

    `|h_f - scale u|^2 + alpha |h_r - h_ref|^2`, means over entries and over the positions that
    count.

    Args:
      forget, retain: hidden states of one layer.
      reference: those of `retain` in the model before.
      direction: u, a random one of length one.
      counted: which positions of `forget` and of `retain` are tokens.
      scale: how far the states are pushed, in the length of u.
      alpha: weight of what is held.
    """
    pushed = (forget - scale * direction[None, None]) ** 2
    held = (retain - jax.lax.stop_gradient(reference)) ** 2
    means = (
        (gaps.mean(-1) * there).sum() / jnp.maximum(there.sum(), 1)
        for gaps, there in zip((pushed, held), counted, strict=True)
    )
    first, second = means
    return first + alpha * second
