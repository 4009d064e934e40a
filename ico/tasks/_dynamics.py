"""Sequences from dynamical systems, a new system for each: next-token prediction must identify it.

Source: 2309.05858, sections 3 and 4, and its authors' code where the two differ.

Dimension key: B sequences, T positions, S hidden states, O observations, M width of the network.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ico.tasks._random import normal, uniform
from ico.types import Sequence

Transition = Literal["orthogonal", "contracting"]
_CLIP = 2.0  # of contracting systems
_EIGENVALUES = (0.3, 0.9)


@dataclasses.dataclass(frozen=True)
class Dynamics:
    """`h_{t+1} = W f(h_t) + noise e_t`, observed directly, or as `C h_t + noise e_t`.

    Fields:
      batch_size, num_steps, num_hidden: B, T, S.
      num_observed: O; None observes the state itself. Otherwise C is 1/2 N(0, 1), drawn for each
        sequence, and only the observations are noisy.
      noise: a standard deviation.
      transition: "orthogonal", W uniform among rotations and reflections; "contracting", W
        symmetric with eigenvalues U(0.3, 0.9) and states clipped to +-2 (the paper gives the
        numbers; that W is symmetric is UNVERIFIED).
      nonlinear: f(h) = z / |z|, z = B gelu(A h), with A, B = 1.1 N(0, 1) shared by all sequences
        and `width` hidden units (normalised as in the code; the paper omits it); else f(h) = h.
      width: M, of the network f.
      start: h_1 is U(-start, start) (the code; the paper says N(0, 1)). 1 in linear systems, 1/4 in
        nonlinear ones, unless given.
      fixed: whether all sequences of all batches share one W; then nothing has to be learned in
        context (a control).

    Raises:
      ValueError: a size below one, a negative noise, or an unknown transition.
    """

    batch_size: int = 256
    num_steps: int = 50
    num_hidden: int = 10
    num_observed: int | None = None
    noise: float = 0.01
    transition: Transition = "orthogonal"
    nonlinear: bool = False
    width: int = 40
    start: float | None = None
    fixed: bool = False

    def __post_init__(self):
        for name in ("batch_size", "num_steps", "num_hidden", "num_observed", "width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if not 0 <= self.noise < float("inf"):
            raise ValueError(f"noise is a standard deviation, at least 0, not {self.noise}")
        if self.transition not in get_args(Transition):
            raise ValueError(
                f"transition must be one of {get_args(Transition)}, not {self.transition!r}"
            )


class Trajectories(NamedTuple):
    """Sequences and the systems that produced them.

    Fields:
      sequence: inputs [B, T, O], x_1 ... x_T, and targets [B, T, O], x_2 ... x_{T+1}.
      transition: W of each sequence.
    """

    sequence: Sequence
    transition: Float[Array, "B S S"]


def dynamics(key: Key[Array, ""], config: Dynamics) -> Trajectories:
    """Draws sequences, each from another system (unless `config.fixed`)."""
    B, T, S = config.batch_size, config.num_steps, config.num_hidden
    keys = jax.random.split(key, 5)
    if config.fixed:
        one = _transitions(jax.random.key(420), 1, S, config.transition)
        w_BSS = jnp.broadcast_to(one, (B, S, S))
    else:
        w_BSS = _transitions(keys[0], B, S, config.transition)
    start = (0.25 if config.nonlinear else 1.0) if config.start is None else config.start
    h_BS = uniform(keys[1], (B, S), -start, start)
    observed = config.num_observed
    noise_TBS = (config.noise if observed is None else 0.0) * normal(keys[2], (T, B, S))
    f = dynamics_network(config) if config.nonlinear else lambda h: h

    def step(h_BS, noise_BS):
        new = jnp.einsum("bij,bj->bi", w_BSS, f(h_BS)) + noise_BS
        if config.transition == "contracting":
            new = jnp.clip(new, -_CLIP, _CLIP)
        return new, new

    _, later_TBS = jax.lax.scan(step, h_BS, noise_TBS)
    x = jnp.moveaxis(jnp.concatenate([h_BS[None], later_TBS]), 0, 1)
    if observed is not None:
        c_BOS = 0.5 * normal(keys[3], (B, observed, S))
        x = jnp.einsum("bos,bts->bto", c_BOS, x)
        x = x + config.noise * normal(keys[4], x.shape)
    return Trajectories(Sequence(x[:, :-1], x[:, 1:]), w_BSS)


def constructed_tokens(x: Float[Array, "B T O"]) -> Float[Array, "B T E"]:
    """Tokens (0, x_t, x_t, x_{t-1}), E = 4 O, on which one layer can do least squares (2309.05858).

    The first part holds the prediction; x_0 is zero.
    """
    before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
    return jnp.concatenate([jnp.zeros_like(x), x, x, before], axis=-1)


def _transitions(key, B, S, kind):
    rotations = jax.random.orthogonal(key, S, shape=(B,))
    if kind == "orthogonal":
        return rotations
    low, high = _EIGENVALUES
    values_BS = uniform(jax.random.fold_in(key, 1), (B, S), low, high)
    return jnp.einsum("bik,bk,bjk->bij", rotations, values_BS, rotations)


def dynamics_network(config: Dynamics) -> Callable[[Array], Array]:
    """The function f of nonlinear systems, [..., S] to [..., S].

    Its weights belong to the task: they do not depend on the key.
    """
    S, M = config.num_hidden, config.width
    rng = np.random.default_rng(421)
    a_MS, b_SM = (
        jnp.asarray(1.1 * rng.normal(size=shape), jnp.float32) for shape in ((M, S), (S, M))
    )

    def f(h):
        z = jax.nn.gelu(h @ a_MS.T) @ b_SM.T
        return z / jnp.linalg.norm(z, axis=-1, keepdims=True)

    return f


def dynamics_features(
    x: Float[Array, "B T O"], config: Dynamics, window: int = 8
) -> Float[Array, "B T F"]:
    """Features of which the next vector is a linear function, as nearly as may be.

    Args:
      x: observations.
      config: of the systems. Observed in part, the features are the last `window` observations,
        F = window O, which stand for the hidden state (zero before the first); in nonlinear
        systems f(x); else x.
      window: observations, at most T.
    """
    if config.num_observed:
        T = x.shape[1]
        late = [jnp.pad(x[:, : T - w], ((0, 0), (w, 0), (0, 0))) for w in range(min(window, T))]
        return jnp.concatenate(late, axis=-1)
    return dynamics_network(config)(x) if config.nonlinear else x
