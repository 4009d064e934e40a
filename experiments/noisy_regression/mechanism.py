"""Section 4.3 and Fig. 4: do the layers of DIAG rescale by the noise, and do they have momentum?

The matrices of FULL; the deepest DIAG of Table 1 with one kind of scalar left out, how far along
the least-squares solution it goes, and regressions of its steps.

That the last step's coefficient in a regression of w_{l+1} - w_l differs from zero proves nothing:
rescaling alone gives it one. So the claim is on the regression of the layer's exact momentum term
(`ico.algorithms.descent_reading`), which is zero in a model without momentum.

Dimension key: L layers, G noise levels, T tasks, D inputs, E token width.
"""

import functools
import operator
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np

from experiments.noisy_regression import testbed
from experiments.noisy_regression.paper import look_of, paper
from experiments.noisy_regression.profiles import levels
from experiments.noisy_regression.variants import best
from ico import algorithms, lab, report
from ico.algorithms import DiagonalScalars, diagonal_heads, diagonal_weights
from ico.lab import Record, Records
from ico.report import Regression

_weights = jax.jit(diagonal_weights)


@paper.study("What do the matrices P and Q of a trained FULL model look like?")
def weights(run):
    """P and Q of the best seed at noise up to 5, and what DIAG could hold of them."""
    chosen = best(run, "FULL", max(run.config.full_depths))
    for name in ("p", "q"):
        yield lab.record(matrix=name.upper(), values=np.asarray(chosen.params[name])[:, 0])


@weights.table("matrices")
def _diagonals(records: Records) -> list[dict]:
    rows = []
    for record in records:
        for layer, matrix_EE in enumerate(record["values"], start=1):
            x, y = np.diag(matrix_EE)[:-1], matrix_EE[-1, -1]
            held = (len(x) * x.mean() ** 2 + y**2) / np.sum(matrix_EE**2)
            row = {"mean of x diagonal": x.mean(), "its standard deviation": x.std()}
            row |= {"y diagonal": y, "share of squares that DIAG can hold": held}
            row = {name: float(number) for name, number in row.items()}
            rows.append({"matrix": record["matrix"], "layer": layer} | row)
    return rows


weights.figure(
    lab.maps("values", each="layer", low=None, high=lambda matrices: np.nanmax(np.abs(matrices))),
    "Paper, Fig. 4. The matrices P and Q of the trained FULL model, one colour scale each; the "
    "last row and column belong to y.",
    name="weights_matrices",
)


@paper.study("Do the layers rescale by the noise, and do they have momentum?")
def mechanism(run):
    """Zeroed scalars, the effective step against noise, and regressions of steps on steps."""
    depth = max(run.config.depths)
    chosen = best(run, "DIAG", depth)
    scalars = chosen.model.apply({"params": chosen.params}, method="scalars")
    scalars = DiagonalScalars(*map(jnp.asarray, scalars))
    for name, values_L in scalars._asdict().items():
        for layer, value in enumerate(np.asarray(values_L), start=1):
            yield lab.record("scalars", layer=layer, scalar=f"w_{name}", value=value)
    test = testbed.at_noise(testbed.draw(run, "mechanism/test", run.config.eval_tasks))
    yield from _left_out(scalars, test)
    yield from _effective_step(run, scalars)
    yield from step_regressions(scalars, test)
    run.note(f"DIAG, {depth} layers, trained at noise up to 5; the best seed.")


mechanism.note(
    "The effective step falls with the noise for learners that know nothing of it, too, since "
    "|w_OLS|^2 grows: the table shows how much further it falls for DIAG."
)


mechanism.table("scalars", lab.grid("value", rows=("layer",), columns="scalar", record="scalars"))


# Rescaling ---------------------------------------------------------------------------------------


def _left_out(scalars: DiagonalScalars, test: algorithms.OracleContexts) -> Iterator[Record]:
    """The loss when one kind of scalar is zero in all layers."""
    for name in ("", "yy", "xy", "xx"):
        less = scalars._replace(**{name: jnp.zeros_like(scalars.yy)} if name else {})
        loss = algorithms.excess(_weights(less, test.statistics), test.oracle)
        yield lab.record("scalars left out", left_out=f"w_{name}" if name else "nothing", loss=loss)


_claim = functools.partial(mechanism.claim, source="section 4.3")
_claim(
    "rescaling",
    "Without w_yy, all else as trained, the loss of DIAG is higher (rise)",
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
mechanism.table(
    "scalars left out",
    lab.rows("loss", record="scalars left out", reference={"left_out": "nothing"}),
)


# The effective step ------------------------------------------------------------------------------


def _effective_step(run, scalars: DiagonalScalars) -> Iterator[Record]:
    """How far along the least-squares solution learners go, by noise level."""
    contexts = testbed.draw(run, "mechanism/step", run.config.profile_tasks)
    # Levels met in training, but four at least: a rank correlation wants some.
    grid = levels(run)[: max(4, run.config.noise_levels - 2)]
    learners = {
        "DIAG": lambda at: _weights(scalars, at.statistics),
        "oracle": lambda at: at.oracle,
        "GD++": lambda at: best(run, "GD++", max(run.config.depths)).weights(at.statistics),
        "ConstRR": lambda at: testbed.baselines(run)["ConstRR"](at.statistics),
    }
    for sigma in map(float, grid):
        at = testbed.at_noise(contexts, (sigma,))
        ols = algorithms.ridge_weights(at.statistics, 0.0)
        square_T = np.asarray(jnp.sum(ols * ols, axis=1))
        for name, of in learners.items():
            along_T = np.asarray(jnp.sum(of(at) * ols, axis=1))
            step = [along_T.mean() / square_T.mean()]
            values = {"along": along_T, "square": square_T, "step": step}
            yield lab.record("effective step", learner=name, sigma=sigma, **values)


@_claim(
    "step",
    "The effective step <w, w_OLS> / |w_OLS|^2 falls with the noise: rank correlation with sigma",
    unit="Spearman's rho",
    band=(None, -0.95),
)
def _step_falls(records: Records) -> lab.Measurement:
    found = records["effective step"].where(learner="DIAG")
    grid = found.axis("sigma")
    along_TG, square_TG = (
        np.stack([record[name] for record in found], axis=1) for name in ("along", "square")
    )

    def rho(along_TG, square_TG):
        return report.spearman(grid, along_TG.mean(0) / square_TG.mean(0))

    value, ci95 = report.interval_of(rho, along_TG, square_TG, resamples=500)
    note = f"{len(grid)} noise levels up to {grid[-1]:g}"
    return lab.Measurement(value, ci95, 1, len(along_TG), note)


mechanism.table(
    "effective step",
    lab.grid("step", rows=("learner",), columns="sigma", record="effective step"),
)
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


def step_regressions(scalars: DiagonalScalars, test: algorithms.OracleContexts) -> Iterator[Record]:
    """What regressions on the preconditioned gradient and the last step need, for all but step 1.

    Of the whole step and of its momentum term, each as moments by task (`ico.report.Regression`).
    """
    p, q = diagonal_heads(scalars, test.oracle.shape[1])

    @jax.jit
    def steps(statistics):
        model = algorithms.implicit_model(p, q, statistics)
        reading = algorithms.descent_reading(p, q, statistics, model)
        return model.w, reading.descent, reading.momentum

    some = jax.tree.map(lambda leaf: leaf[:20_000], test.statistics)
    w_LTD, descent_LTD, momentum_LTD = (np.asarray(a, np.float64) for a in steps(some))
    for layer in range(1, len(descent_LTD)):
        columns = [descent_LTD[layer], w_LTD[layer] - w_LTD[layer - 1]]
        responses = {"step": w_LTD[layer + 1] - w_LTD[layer], "momentum": momentum_LTD[layer]}
        for of, y_TD in responses.items():
            fit = Regression.of(y_TD, columns)
            yield lab.record("regression", of=of, step=f"{layer} to {layer + 1}", **fit._asdict())


_r_squared = operator.attrgetter("r_squared")


def _last_step(fit: Regression) -> float:
    return fit.coefficients[1]


def _fit(record: Record) -> Regression:
    return Regression(record["xx"], record["xy"], record["yy"])


def _least(of: str, statistic: Callable) -> Callable[[Records], lab.Measurement]:
    """The least of a statistic over steps."""

    def measure(records: Records) -> lab.Measurement:
        fits = [_fit(record) for record in records["regression"].where(of=of)]
        value, ci95 = min((fit.interval(statistic) for fit in fits), key=lambda found: found[0])
        note = f"{len(fits)} steps, all but the first"
        return lab.Measurement(value, ci95, 1, len(fits[0].yy), note)

    return measure


_claim(
    "momentum_fit",
    "Preconditioned gradient and last step explain the next step of DIAG: the least R^2 of its "
    "steps",
    unit="R^2",
    band=(0.95, None),
    of=_least("step", _r_squared),
)
_claim(
    "momentum",
    "The momentum term that a layer holds exactly goes along the last step, gradient beside it "
    "and never against it: the smallest coefficient over steps",
    source="section 4.3; the exact term is ours",
    unit="coefficient",
    band=(0.01, None),
    kind="core",
    of=_least("momentum", _last_step),
)


@mechanism.table("what explains a step")
def _explained(records: Records) -> list[dict]:
    found, rows = records["regression"], []
    for step in found.axis("step"):
        whole, momentum = (_fit(found.one(step=step, of=of)) for of in ("step", "momentum"))
        row = {
            "step": step,
            "R^2 of the gradient alone": whole.leading(1).r_squared,
            "of the gradient": float(whole.coefficients[0]),
            "momentum term's R^2": momentum.r_squared,
            "momentum's share of the step": float(np.sqrt(momentum.yy.sum() / whole.yy.sum())),
        }
        for name, fit, statistic in (
            ("R^2", whole, _r_squared),
            ("last step", whole, _last_step),
            ("momentum term's last step", momentum, _last_step),
        ):
            value, (low, high) = fit.interval(statistic)
            row |= {name: value, f"{name} low": low, f"{name} high": high}
        rows.append(row)
    return rows
