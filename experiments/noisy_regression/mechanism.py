"""Section 4.3: do the layers of DIAG rescale by the noise, and do they have momentum?

The deepest DIAG of Table 1 with one kind of scalar left out, how far along the least-squares
solution it goes, and regressions of its steps.

That the last step's coefficient in a regression of w_{l+1} - w_l differs from zero proves nothing:
rescaling alone gives it one. So the claim is on the regression of the layer's exact momentum term
(`ico.algorithms.descent_reading`), which is zero in a model without momentum.

Dimension key: L layers, G noise levels, T tasks, D inputs, C columns of a regression.
"""

from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.stats import spearmanr

from experiments.noisy_regression.contexts import (
    EvalContexts,
    at_noise,
    baselines,
    draw_contexts,
    excess,
    level,
    prior_of,
)
from experiments.noisy_regression.paper import look_of, paper
from experiments.noisy_regression.per_noise_profile import STRONG, levels
from experiments.noisy_regression.variants import best
from ico import algorithms, lab, report
from ico.algorithms import DiagonalScalars, diagonal_heads, diagonal_weights
from ico.lab import Record, Records

_weights = jax.jit(diagonal_weights)


@paper.study("Do the layers rescale by the noise, and do they have momentum?")
def mechanism(run):
    """Zeroed scalars, the effective step against noise, and regressions of steps on steps."""
    depth = max(run.config.depths)
    chosen = best(run, "DIAG", depth)
    scalars = chosen.model.apply({"params": chosen.params}, method="scalars")
    scalars = DiagonalScalars(*map(jnp.asarray, scalars))
    yield lab.record("scalars", **{f"w_{name}": leaf for name, leaf in scalars._asdict().items()})
    contexts = draw_contexts(run, "mechanism/test", run.config.eval_tasks)
    test = at_noise(contexts, prior_of(STRONG))
    yield from _left_out(scalars, test)
    yield from _effective_step(run, scalars)
    yield from step_regressions(scalars, test)
    run.note(f"DIAG, {depth} layers, trained at noise up to 5; the best seed.")


mechanism.note(
    "The effective step falls with the noise for learners that know nothing of it, too, since "
    "|w_OLS|^2 grows: the table shows how much further it falls for DIAG."
)


@mechanism.table("scalars")
def _scalars(records: Records) -> list[dict]:
    values = records["scalars"].one().values
    rows = zip(*values.values(), strict=True)
    return [
        {"layer": layer} | dict(zip(values, map(float, row), strict=True))
        for layer, row in enumerate(rows, start=1)
    ]


# Rescaling ---------------------------------------------------------------------------------------


def _left_out(scalars: DiagonalScalars, test: EvalContexts) -> Iterator[Record]:
    """The loss when one kind of scalar is zero in all layers."""
    for name in ("", "yy", "xy", "xx"):
        less = scalars._replace(**{name: jnp.zeros_like(scalars.yy)} if name else {})
        loss = excess(_weights(less, test.statistics), test.oracle)
        yield lab.record("scalars left out", left_out=f"w_{name}" if name else "nothing", loss=loss)


mechanism.claim(
    "rescaling",
    "Without w_yy, all else as trained, the loss of DIAG is higher (rise)",
    "section 4.3",
    unit="half squared error",
    band=(0.0, None),
    kind="core",
    of=lab.difference(
        "loss",
        record="scalars left out",
        left_out=("w_yy", "nothing"),
        note="not trained again without it",
    ),
)


@mechanism.table("scalars left out")
def _rises(records: Records) -> list[dict]:
    found = records["scalars left out"]
    whole, rows = found.one(left_out="nothing")["loss"], []
    for record in found:
        rise, (low, high) = lab.interval(record["loss"], whole, statistic=report.difference)
        row = {"left out": record["left_out"], "loss": float(record["loss"].mean())}
        rows.append(row | {"rise": rise, "95% low": low, "95% high": high})
    return rows


# The effective step ------------------------------------------------------------------------------


def _effective_step(run, scalars: DiagonalScalars) -> Iterator[Record]:
    """How far along the least-squares solution learners go, by noise level."""
    contexts = draw_contexts(run, "mechanism/step", run.config.profile_tasks)
    # Levels met in training, but four at least: a rank correlation wants some.
    grid = levels(run)[: max(4, run.config.noise_levels - 2)]
    plain = best(run, "GD++", max(run.config.depths))
    constant = baselines(run)["ConstRR"]
    along: dict[str, list] = {name: [] for name in ("DIAG", "oracle", "GD++", "ConstRR", "OLS")}
    for sigma in grid:
        at = at_noise(contexts, level(sigma))
        ols = algorithms.ridge_weights(at.statistics, 0.0)
        learners = {
            "DIAG": _weights(scalars, at.statistics),
            "oracle": at.oracle,
            "GD++": plain.weights(at.statistics),
            "ConstRR": constant(at.statistics),
            "OLS": ols,
        }
        for name, w in learners.items():
            along[name].append(np.asarray(jnp.sum(w * ols, axis=1)))
    along_TG = {name: np.stack(values, axis=1) for name, values in along.items()}
    square_TG = along_TG.pop("OLS")
    for name, values_TG in along_TG.items():
        step_G = values_TG.mean(0) / square_TG.mean(0)
        yield lab.record("effective step", learner=name, sigma=grid, step=step_G)
    yield lab.record("projection", sigma=grid, along=along_TG["DIAG"], square=square_TG)


@mechanism.claim(
    "step",
    "The effective step <w, w_OLS> / |w_OLS|^2 falls with the noise: rank correlation with sigma",
    "section 4.3",
    unit="Spearman's rho",
    band=(None, -0.95),
)
def _step_falls(records: Records) -> lab.Measurement:
    found = records["projection"].one()
    grid, along_TG = found["sigma"], found["along"]

    def rho(along_TG, square_TG):
        return float(spearmanr(grid, along_TG.mean(0) / square_TG.mean(0)).statistic)

    value, ci95 = report.interval_of(rho, along_TG, found["square"], resamples=500)
    note = f"{len(grid)} noise levels up to {grid[-1]:g}"
    return lab.Measurement(value, ci95, 1, len(along_TG), note)


@mechanism.table("effective step")
def _steps(records: Records) -> list[dict]:
    return [
        {
            "learner": record["learner"],
            "without noise": float(record["step"][0]),
            "at the strongest": float(record["step"][-1]),
            "ratio": float(record["step"][-1] / record["step"][0]),
        }
        for record in records["effective step"]
    ]


mechanism.figure(
    lab.lines(
        "sigma",
        "step",
        record="effective step",
        color="learner",
        looks={name: look_of(name) for name in ("DIAG", "oracle", "GD++", "ConstRR")},
        xlabel="standard deviation of the noise",
        ylabel="<w, w_OLS> / |w_OLS|^2",
    ),
    "How far the deepest DIAG and GD++ models of the table, ConstRR and the ridge oracle that "
    "knows sigma go along the least-squares solution at each noise level.",
    name="effective_step",
)


# Momentum ----------------------------------------------------------------------------------------


def step_regressions(scalars: DiagonalScalars, test: EvalContexts) -> Iterator[Record]:
    """What regressions on the preconditioned gradient and the last step need, for all but step 1.

    Of the whole step and of its momentum term, each as moments by task (`moments`).
    """
    p, q = diagonal_heads(scalars, test.oracle.shape[1])

    @jax.jit
    def steps(statistics):
        model = algorithms.implicit_model(p, q, statistics)
        reading = algorithms.descent_reading(p, q, statistics, model)
        descent = -jnp.einsum("lbde,lbe->lbd", reading.preconditioner, reading.gradient)
        return model.w, descent, reading.momentum

    some = jax.tree.map(lambda leaf: leaf[:20_000], test.statistics)
    w_LTD, descent_LTD, momentum_LTD = (np.asarray(a, np.float64) for a in steps(some))
    for layer in range(1, len(descent_LTD)):
        columns = [descent_LTD[layer], w_LTD[layer] - w_LTD[layer - 1]]
        responses = {"step": w_LTD[layer + 1] - w_LTD[layer], "momentum": momentum_LTD[layer]}
        for of, y_TD in responses.items():
            place = f"{layer} to {layer + 1}"
            yield lab.record("regression", of=of, step=place, **moments(y_TD, columns))


def moments(
    y: Float[np.ndarray, "T D"], columns: list[Float[np.ndarray, "T D"]]
) -> dict[str, np.ndarray]:
    """Moments of a regression over tasks and coordinates: xx [T, C, C], xy [T, C], yy [T].

    They are kept by task, so that tasks are what a bootstrap draws.
    """
    x_TDC = np.stack(columns, axis=-1)
    xx = np.einsum("tdc,tde->tce", x_TDC, x_TDC)
    return {"xx": xx, "xy": np.einsum("tdc,td->tc", x_TDC, y), "yy": np.sum(y**2, axis=1)}


def coefficients(xx, xy, yy) -> Float[np.ndarray, "C"]:
    """Those of least squares; of columns that are the same each gets half."""
    return np.linalg.pinv(xx.mean(0), rcond=1e-10, hermitian=True) @ xy.mean(0)


def last_step(xx, xy, yy) -> float:
    """The coefficient of the last step."""
    return float(coefficients(xx, xy, yy)[1])


def r_squared(xx, xy, yy) -> float:
    """The share explained; the mean of y is zero by symmetry (w and -w are alike)."""
    explained, total = coefficients(xx, xy, yy) @ xy.mean(0), yy.mean()
    return float(explained / total) if total > 0 else float("nan")


def interval_over_tasks(statistic: Callable, record: Record):
    """A statistic of a regression's moments, with its interval."""
    return report.interval_of(statistic, record["xx"], record["xy"], record["yy"], resamples=500)


def _least(of: str, statistic: Callable) -> Callable[[Records], lab.Measurement]:
    """The least of a statistic over steps."""

    def measure(records: Records) -> lab.Measurement:
        steps = records["regression"].where(of=of)
        found = [interval_over_tasks(statistic, record) for record in steps]
        value, ci95 = min(found, key=lambda pair: pair[0])
        count = len(steps.stack("yy")[0])
        return lab.Measurement(value, ci95, 1, count, f"{len(found)} steps, all but the first")

    return measure


mechanism.claim(
    "momentum_fit",
    "Preconditioned gradient and last step explain the next step of DIAG: the least R^2 of its "
    "steps",
    "section 4.3",
    unit="R^2",
    band=(0.95, None),
    of=_least("step", r_squared),
)
mechanism.claim(
    "momentum",
    "The momentum term that a layer holds exactly goes along the last step, gradient beside it "
    "and never against it: the smallest coefficient over steps",
    "section 4.3; the exact term is ours",
    unit="coefficient",
    band=(0.01, None),
    kind="core",
    of=_least("momentum", last_step),
)


@mechanism.table("what explains a step")
def _regressions(records: Records) -> list[dict]:
    found = records["regression"]
    return [
        _regression_row(found.one(step=step, of="step"), found.one(step=step, of="momentum"))
        for step in found.axis("step")
    ]


def _regression_row(whole: Record, momentum: Record) -> dict:
    value, (low, high) = interval_over_tasks(r_squared, whole)
    last, (last_low, last_high) = interval_over_tasks(last_step, whole)
    exact, (exact_low, exact_high) = interval_over_tasks(last_step, momentum)
    xx, xy, yy = whole["xx"], whole["xy"], whole["yy"]
    return {
        "step": whole["step"],
        "R^2": value,
        "R^2 low": low,
        "R^2 high": high,
        "R^2 of the gradient alone": r_squared(xx[:, :1, :1], xy[:, :1], yy),
        "of the gradient": float(coefficients(xx, xy, yy)[0]),
        "of the last step": last,
        "last step low": last_low,
        "last step high": last_high,
        "momentum term's": exact,
        "its low": exact_low,
        "its high": exact_high,
        "its R^2": r_squared(momentum["xx"], momentum["xy"], momentum["yy"]),
        "momentum's share of the step": float(np.sqrt(momentum["yy"].sum() / yy.sum())),
    }
