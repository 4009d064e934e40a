"""Does the first layer of a full model build the tokens that the others need? (Figs. 2 and 3)

The paper: a head of the first softmax layer attends to the token before, so that the pair (x_{t-1},
x_t) stands in one token, as in constructed ones.

Dimension key: S seeds, B sequences, T positions, L lags, H heads, E token width, D inputs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import systems
from experiments.mesa_optimization.paper import paper
from ico import lab
from ico.models import sinusoidal_positions
from ico.probes import attention_pattern, attention_to_previous, lagged_probe_errors

RIDGE = 1e-6  # of probes, as a share of the tokens' mean square
_LAGS = 6


@functools.partial(jax.jit, static_argnums=0)
def first_pattern(model, params, x_BTI):
    """Attention [B, H, T, T] of a first softmax layer."""
    tokens = model.apply({"params": params}, x_BTI, method="hidden")[0]
    code = jnp.asarray(sinusoidal_positions(x_BTI.shape[1], model.position_dim))
    code = jnp.broadcast_to(code[None], (len(tokens), *code.shape))
    placed = jnp.concatenate([tokens, code], axis=-1)
    weights = params["block_0"]["attention"]
    q, k = (jnp.einsum("bte,hea->btha", placed, weights[name]) for name in ("query", "key"))
    return attention_pattern(q, k)


def copying(model, params, fitted, test) -> np.ndarray:
    """Attention on the token before, [B], of the head that has most of it on other sequences."""
    elsewhere, here = (
        np.asarray(attention_to_previous(first_pattern(model, params, data.inputs)))
        for data in (fitted, test)
    )
    return here[:, int(np.argmax(elsewhere.mean(0)))]


def by_lag(model, params, fitted, test) -> np.ndarray:
    """Squared errors of probes for x_{t - lag}, and squares about the mean, [2, lags, B]."""
    tokens, test_tokens = (systems.hidden(model, params, data.inputs)[1] for data in (fitted, test))
    sides = (tokens, fitted.inputs, test_tokens, test.inputs)
    return np.stack(lagged_probe_errors(*sides, num_lags=_LAGS, ridge=RIDGE))


@paper.study("Does the first layer of a full model build the tokens that the others need?")
def token_binding(run):
    """Whether the first layer of full models brings the token before beside the present one."""
    for system in ("linear", "partial"):
        fitted, test = (systems.held_out(run, name, system) for name in ("probe", "test"))
        for model in ("softmax, linear", "softmax, mesa"):
            if model not in run.config.models_on(system):
                continue
            axes = {"system": system, "model": model}
            trained = systems.train_full(run, model, system)
            squares_S2LB = trained.by_seed(by_lag, fitted, test)
            pattern = first_pattern(trained.model, trained.seed(0), test.inputs[:64])
            yield lab.record(
                **axes,
                attention=trained.by_seed(copying, fitted, test),
                pattern=np.asarray(pattern).mean(0),
            )
            for lag in range(_LAGS):
                error_SB, total_SB = squares_S2LB[:, 0, lag], squares_S2LB[:, 1, lag]
                yield lab.record("lag", lag=lag, **axes, error=error_SB, total=total_SB)


token_binding.claim(
    "attention",
    "The first layer of a full model copies: mean attention of its most copying head on the "
    "token before",
    "Fig. 3",
    unit="attention",
    band=(0.9, None),
    of=lab.mean("attention", system="linear", model="softmax, linear"),
)


token_binding.claim(
    "previous",
    "The token before is read off the first layer's output by a linear map",
    "Fig. 2",
    unit="R^2",
    band=(0.95, None),
    of=lab.reduction(
        ("total", "error"), record="lag", system="linear", model="softmax, linear", lag=1
    ),
)
token_binding.table("attention on the token before", lab.rows("attention"))
token_binding.table(
    "share of x(t - lag) that is not read",
    lab.rows("error", over="total", record="lag", name="1 - R^2"),
)
token_binding.note(
    "The most copying head is chosen on other sequences; attention is a mean over positions from "
    "the second on. Probes are linear maps with a constant from the tokens after the first layer, "
    "one for all positions, fitted on other sequences. Claims are about the model of softmax and "
    "linear layers on the linear system."
)
token_binding.figure(
    lab.maps("pattern", each="head"),
    "Paper, Fig. 3. Attention of the first layer's heads in one seed, mean over sequences; rows "
    "are the attending positions. One colour scale, from zero to one.",
    name="token_binding",
)
