"""What stands in the tokens of trained models: copies, targets, preconditioned inputs.

Dimension key: S seeds, B sequences, T positions, E token width, D inputs, H heads, L layers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import comparison as cmp
from experiments.mesa_optimization import constructed as con
from experiments.mesa_optimization import training as tr
from experiments.mesa_optimization.claims import all_measured
from ico.models import sinusoidal_positions
from ico.report import StudyResult, difference, interval, measured, unjudged

_LAGS = 6
_RIDGE = 1e-6  # of the mean square of the tokens' coordinates
_INVERSE = 1e-3  # regulariser of the preconditioned inputs, as in the authors' code


@functools.partial(jax.jit, static_argnums=0)
def hidden(model, params, x_BTI):
    """The tokens before the first layer and after each, [L + 1, B, T, E]."""
    with jax.default_matmul_precision("highest"):
        return jnp.stack(model.apply({"params": params}, x_BTI, method="hidden"))


@functools.partial(jax.jit, static_argnums=0)
def first_scores(model, params, x_BTI):
    """Attention [B, H, T, T] of a first softmax layer."""
    tokens = model.apply({"params": params}, x_BTI, method="hidden")[0]
    code = jnp.asarray(sinusoidal_positions(x_BTI.shape[1], model.position_dim))
    placed = jnp.concatenate(
        [tokens, jnp.broadcast_to(code[None], (len(tokens), *code.shape))], axis=-1
    )
    weights = params["block_0"]["attention"]
    q = jnp.einsum("bte,hea->bhta", placed, weights["query"])
    k = jnp.einsum("bte,hea->bhta", placed, weights["key"])
    scores = jnp.einsum("bhta,bhsa->bhts", q, k) * q.shape[-1] ** -0.5
    mask = jnp.tri(scores.shape[-1], dtype=bool)[None, None]
    return jax.nn.softmax(jnp.where(mask, scores, -jnp.inf), axis=-1)


def fit(x_NE, y_ND) -> np.ndarray:
    """Ridge regression with a free constant, [E + 1, D], in float64."""
    x = _with_one(x_NE)
    gram = x.T @ x
    E = len(gram) - 1
    gram[:E, :E] += _RIDGE * np.trace(gram[:E, :E]) / E * np.eye(E)
    return np.linalg.solve(gram, x.T @ np.asarray(y_ND, np.float64))


def predict(x, weights) -> np.ndarray:
    """What a probe reads, [..., D]."""
    return _with_one(x) @ weights


def _with_one(x):
    x = np.asarray(x, np.float64)
    return np.concatenate([x, np.ones((*x.shape[:-1], 1))], axis=-1)


# Token binding ------------------------------------------------------------------------------------


def token_binding(context) -> StudyResult:
    """Whether the first layer of full models brings the token before beside the present one."""
    rows, arrays, claims = [], {}, []
    for task_name in ("linear", "partial"):
        fitted, test = (cmp.held_out(context, task_name, name) for name in ("probe", "test"))
        for model in ("softmax, linear", "softmax, mesa"):
            if model not in context.config.models_on(task_name):
                continue
            trained = cmp.train_full(context, model, task_name)
            copies, lags, maps = [], [], []
            for seed in range(context.config.num_seeds):
                params = tr.one(trained, seed)
                copies.append(_copying(trained.model, params, fitted, test))
                lags.append(_by_lag(trained.model, params, fitted, test))
                maps.append(
                    np.asarray(first_scores(trained.model, params, test.inputs[:64])).mean(0)
                )
            copy_SB = np.stack(copies)
            error_SLB, total_SLB = (np.stack(parts) for parts in zip(*lags, strict=True))
            arrays[f"attention/{task_name}/{model}"] = np.stack(maps)[0]
            row = {"system": task_name, "model": model, "attention on the token before":
                   interval(copy_SB)[0]}  # fmt: skip
            for lag in range(_LAGS):
                row[f"R^2 of x(t - {lag})"] = 1 - float(
                    error_SLB[:, lag].mean() / total_SLB[:, lag].mean()
                )
            rows.append(row)
            if task_name == "linear" and model == "softmax, linear":
                claims = [
                    measured("token_binding.attention", copy_SB),
                    measured("token_binding.previous", error_SLB[:, 1], total_SLB[:, 1],
                             statistic=lambda error, total: 1 - error / total),
                ]  # fmt: skip
    notes = [
        "The most copying head is chosen on other sequences; attention is a mean over positions "
        "from the second on. Probes are linear maps with a constant from the tokens after the "
        "first layer, one for all positions, fitted on other sequences.",
        "Claims are about the model of softmax and linear layers on the linear system.",
    ]
    if not claims:
        claims = [unjudged(f"token_binding.{name}", "the model that it is about was not trained")
                  for name in ("attention", "previous")]  # fmt: skip
    return StudyResult(claims, {"first layer": rows}, arrays, notes)


def _copying(model, params, fitted, test) -> np.ndarray:
    """Attention on the token before, [B], of the head that has most of it elsewhere."""

    def before(x):
        scores = first_scores(model, params, x)
        return jnp.diagonal(scores, offset=-1, axis1=2, axis2=3).mean(-1)  # [B, H]

    head = int(np.argmax(np.asarray(before(fitted.inputs)).mean(0)))
    return np.asarray(before(test.inputs))[:, head]


def _by_lag(model, params, fitted, test):
    """Squared errors of probes for x_{t - lag}, and squares about the mean, [lags, B] each."""
    parts = []
    for data in (fitted, test):
        tokens = np.asarray(hidden(model, params, data.inputs)[1])[:, _LAGS:]
        x = np.asarray(data.inputs)
        late = [x[:, _LAGS - lag : x.shape[1] - lag] for lag in range(_LAGS)]
        parts.append((tokens, late))
    (from_fit, late_fit), (from_test, late_test) = parts
    errors, totals = [], []
    for y_fit, y_test in zip(late_fit, late_test, strict=True):
        weights = fit(from_fit.reshape(-1, from_fit.shape[-1]), y_fit.reshape(-1, y_fit.shape[-1]))
        errors.append(np.square(predict(from_test, weights) - y_test).mean((1, 2)))
        totals.append(np.square(y_test - y_fit.mean((0, 1))).mean((1, 2)))
    return np.stack(errors), np.stack(totals)


# Probes of the algorithm --------------------------------------------------------------------------


def probes(context) -> StudyResult:
    """How well the next token and the preconditioned input are read off after every layer."""
    config, D = context.config, context.config.dim
    deepest = config.depths[-1]
    fitted, test = (con.held_out(context, name) for name in ("probe", "test"))
    plain_fit, plain_test = (cmp.held_out(context, "linear", name) for name in ("probe", "test"))
    subjects = {
        f"LSA-{deepest}": (con.train_constructed(context, "linear", deepest), fitted, test,
                           lambda s: s.inputs[..., D : 2 * D]),
    }  # fmt: skip
    if "softmax, linear" in config.models_on("linear"):
        subjects["softmax, linear"] = (cmp.train_full(context, "softmax, linear"), plain_fit,
                                       plain_test, lambda s: s.inputs)  # fmt: skip
    positions = sorted({t for t in config.probe_positions if t < config.length})
    rows, arrays, claims = [], {}, []
    for name, (trained, a, b, inputs) in subjects.items():
        target, inverse = [], []
        for seed in range(config.num_seeds):
            params = tr.one(trained, seed)
            before, after = (np.asarray(hidden(trained.model, params, s.inputs)) for s in (a, b))
            target.append(_probe(before, after, a.targets, b.targets, positions))
            sides = [preconditioned(inputs(s)) for s in (a, b)]
            inverse.append(_probe(before, after, sides[0], sides[1], positions, relative=True))
        error_SLB, relative_SLB = np.stack(target), np.stack(inverse)
        for layer in range(error_SLB.shape[1]):
            value, (low, high) = interval(error_SLB[:, layer])
            rows.append({"model": name, "after layer": layer, "next token": value, "95% low": low,
                         "95% high": high, "preconditioned input, share not explained":
                         float(relative_SLB[:, layer].mean())})  # fmt: skip
        arrays[f"target/{name}"] = error_SLB.mean((0, 2))
        arrays[f"preconditioned/{name}"] = relative_SLB.mean((0, 2))
        if name.startswith("LSA"):
            pairs = [error_SLB[:, layer + i] for layer in range(error_SLB.shape[1] - 1)
                     for i in (0, 1)]  # fmt: skip
            claims = [all_measured("probes.target", *pairs, statistic=difference)]
    notes = [
        "A linear probe with a constant for each layer and position "
        f"({', '.join(map(str, positions))} from 0), fitted on other sequences; means over these "
        "positions. Layer 0 is the tokens.",
        f"Preconditioned input: (sum x x^T + {_INVERSE:g})^-1 x_t over the past; positions below "
        "twice the width are left out, and sequences beyond the 99th percentile of its length.",
    ]
    return StudyResult(claims, {"probes": rows}, arrays, notes)


@jax.jit
def preconditioned(x_BTD):
    """`(sum_{s < t} x_s x_s^T + 0.001)^-1 x_t` at every position."""
    outer = jnp.einsum("btd,bte->btde", x_BTD, x_BTD)
    gram = jnp.cumsum(outer, axis=1) - outer + _INVERSE * jnp.eye(x_BTD.shape[-1])[None, None]
    return jnp.linalg.solve(gram, x_BTD[..., None])[..., 0]


def _probe(before, after, y_before, y_after, positions, relative=False) -> np.ndarray:
    """1/2 |error|^2 [L + 1, B], mean over positions; relative to its own variance if asked."""
    errors = np.zeros((len(before), after.shape[1]))
    y_before, y_after = np.asarray(y_before), np.asarray(y_after)
    if relative:
        positions = [t for t in positions if t >= 2 * y_before.shape[-1]] or positions[-1:]
    for t in positions:
        a, b = y_before[:, t], y_after[:, t]
        keep, scale, weight = np.ones(len(a), bool), 1.0, np.ones(len(b))
        if relative:
            length = np.linalg.norm(a, axis=-1)
            top = np.quantile(length, 0.99)
            keep, weight = length <= top, (np.linalg.norm(b, axis=-1) <= top).astype(float)
            scale = 0.5 * np.var(a[keep], axis=0).sum()
            weight /= weight.mean()
        for layer in range(len(before)):
            weights = fit(before[layer, keep, t], a[keep])
            error = 0.5 * np.square(predict(after[layer, :, t], weights) - b).sum(-1)
            errors[layer] += weight * error / scale
    return errors / len(positions)
