"""What the network of L3RS sees of every group of parameters, and what it gives.

Dimension key: G groups, P base optimizers, Q quantities (loss, gradient, weights, update), R decay
rates, F features of time, E width of the embedding, O outputs.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ico.optim._network import apply_network

PyTree = Any
# Steps at which the features of absolute time change. They are early ones: a later change would lie
# outside of what a short training has shown.
TIMES = (1.0, 3.0, 10.0)
NUM_QUANTITIES = 4
TINY = 1e-12
_PARTS = {"embedding", "network", "log_learning_rate", "horizon_power"}


def num_features(num_decays: int, embed_dim: int) -> int:
    """Inputs of the network."""
    return NUM_QUANTITIES * num_decays + 2 + len(TIMES) + embed_dim


def num_outputs(num_bases: int, average: bool) -> int:
    """A learning rate, a mix, and with `average` the two coefficients of the mean."""
    return 1 + num_bases + 2 * average


def network_outputs(
    theta: PyTree,
    means_GQR: Float[Array, "G Q R"],
    count: Int[Array, ""],
    num_steps,
    *,
    use_time: bool,
    use_loss: bool,
) -> Float[Array, "G O"]:
    """Outputs of the network that all groups share.

    Args:
      theta: see `L3RS.init`.
      means_GQR: running means of logarithms, corrected for their start.
      count: steps done.
      num_steps: the horizon.
      use_time, use_loss: whether the network sees them; if not, zeros stand in their place.
    """
    G = len(means_GQR)
    slow_GQ, trends_GQR = means_GQR[..., -1], means_GQR[..., :-1] - means_GQR[..., 1:]
    by_group = jnp.concatenate([0.2 * slow_GQ[..., None], trends_GQR], axis=-1)
    if not use_loss:
        by_group = by_group.at[:, 0].set(0)
    done = jnp.clip(count / jnp.asarray(num_steps, jnp.float32), 0, 1)
    relative = jnp.stack([2 * done - 1, 0.4 * jnp.log(1.01 - done) + 1])
    absolute = jnp.tanh(jnp.log((count + 1) / jnp.asarray(TIMES, jnp.float32)))
    time_F = jnp.concatenate([relative, absolute]) * (1.0 if use_time else 0.0)
    embedding = jnp.broadcast_to(theta["embedding"], (G, theta["embedding"].shape[-1]))
    time_GF = jnp.broadcast_to(time_F[None], (G, len(time_F)))
    features = jnp.concatenate([by_group.reshape(G, -1), time_GF, embedding], axis=-1)
    return apply_network(theta["network"], features)


def means_before_update(
    decays: Sequence[float],
    means_GQR: Float[Array, "G Q R"],
    num_losses: Int[Array, ""],
    loss: Float[Array, ""],
    gradient_G: Float[Array, "G"],
    weights_G: Float[Array, "G"],
    scale: Float[Array, ""],
) -> tuple[Float[Array, "G Q R"], Int[Array, ""]]:
    """Running means with this step's loss, gradient and weights, and how many losses are in them.

    A loss that is not finite is left out. The last of Q, the update, is still that of the steps
    before.

    Args:
      decays: R.
      means_GQR, num_losses: before this step.
      loss: of this step.
      gradient_G, weights_G: mean squares of the groups.
      scale: what the gradient had been multiplied by before it was squared.
    """
    is_finite = jnp.isfinite(loss)
    loss_G = jnp.broadcast_to(_signed_log(jnp.where(is_finite, loss, 0)), (len(gradient_G),))
    log_gradient_G = _log_rms(gradient_G) - jnp.log(scale).astype(jnp.float32)
    seen_GQ = jnp.stack([loss_G, log_gradient_G, _log_rms(weights_G)], axis=-1)
    decay_QR = jnp.broadcast_to(jnp.asarray(decays, jnp.float32)[None], (3, len(decays)))
    old_GQR = means_GQR[:, :3]
    new_GQR = decay_QR[None] * old_GQR + (1 - decay_QR)[None] * seen_GQ[..., None]
    is_counted_Q = jnp.stack([is_finite, jnp.array(True), jnp.array(True)])
    new_GQR = jnp.where(is_counted_Q[None, :, None], new_GQR, old_GQR)
    means_GQR = jnp.concatenate([new_GQR, means_GQR[:, 3:]], axis=1)
    return means_GQR, num_losses + is_finite.astype(jnp.int32)


def corrected(decays: Sequence[float], means_GQR, count, num_losses) -> Float[Array, "G Q R"]:
    """The running means, corrected for their start at zero as Adam's are."""
    decays_R = jnp.asarray(decays, jnp.float32)
    terms_Q = jnp.stack([num_losses, count + 1, count + 1, count]).astype(jnp.float32)
    return means_GQR / jnp.maximum(1 - decays_R[None] ** terms_Q[:, None], TINY)[None]


def means_with_update(decays: Sequence[float], means_GQR, square_G) -> Float[Array, "G Q R"]:
    """The running means with this step's update, given its mean squares."""
    decays_R = jnp.asarray(decays, jnp.float32)
    update_GR = means_GQR[:, 3] * decays_R[None]
    update_GR = update_GR + (1 - decays_R)[None] * _log_rms(square_G)[:, None]
    return jnp.concatenate([means_GQR[:, :3], update_GR[:, None]], axis=1).astype(jnp.float32)


def _log_rms(mean_square):
    """The logarithm of a root mean square, given its square."""
    return 0.5 * jnp.log(mean_square + TINY**2)


def _signed_log(value):
    """A logarithm for losses of any sign, linear below 1e-4."""
    return jnp.sign(value) * jnp.log1p(jnp.abs(value) / 1e-4)


def check_theta(
    theta: PyTree, *, num_bases: int, num_decays: int, average: bool, num_groups: int | None = None
) -> None:
    """Raises ValueError if theta is for another configuration, or (where given) number of groups.

    Only the number of outputs tells the number of base optimizers: theta for two and an average has
    as many as theta for four without one. `ico.optim.save` therefore writes both down.
    """
    if missing := sorted(_PARTS - set(theta)):
        raise ValueError(f"theta has no {', '.join(missing)}: take that of L3RS.init or of a save")
    have, width = theta["embedding"].shape
    if num_groups and have not in (1, num_groups):
        raise ValueError(
            f"theta is for {have} groups of parameters, the parameters have {num_groups}"
        )
    kernels = [layer["kernel"].shape for layer in theta["network"].values()]
    found = kernels[0][0], kernels[-1][1]
    expected = num_features(num_decays, width), num_outputs(num_bases, average)
    if found != expected:
        raise ValueError(
            f"theta's network goes from {found[0]} features to {found[1]} outputs; {num_bases} "
            f"base optimizers and {num_decays} decays need {expected[0]} and {expected[1]}"
            f"{' to average' * average}"
        )
