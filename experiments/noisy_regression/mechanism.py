"""What trained models do: their matrices, rescaling, momentum, and GD++ on hard spectra.

Dimension key: L layers, G noise levels, T tasks, D inputs, E token width, K spectra.
"""

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import threadpoolctl
from scipy.stats import spearmanr

from experiments.noisy_regression import evaluation as ev
from experiments.noisy_regression.table import levels
from experiments.noisy_regression.training import excess
from ico import algorithms
from ico.algorithms import DiagonalScalars, diagonal_heads, diagonal_weights
from ico.report import (
    Measurement,
    StudyResult,
    difference,
    interval,
    interval_of,
    measured,
)
from ico.types import Statistics

_weights = jax.jit(diagonal_weights)


def weights(context) -> StudyResult:
    """P and Q of the trained FULL model, and how much of them is diagonal."""
    depth = max(context.config.full_depths)
    chosen = ev.best(context, "FULL", depth)
    rows, arrays = [], {}
    for name in ("p", "q"):
        matrices = np.asarray(chosen.params[name])[:, 0]
        arrays[name] = matrices
        for layer, matrix in enumerate(matrices):
            x, y = np.diag(matrix)[:-1], matrix[-1, -1]
            total = float(np.sum(matrix**2))
            rows.append(
                {
                    "matrix": name.upper(), "layer": layer + 1,
                    "mean of x diagonal": float(x.mean()), "its deviation": float(x.std()),
                    "y diagonal": float(y),
                    "share of squares that DIAG can hold": float(len(x) * x.mean() ** 2 + y**2)
                    / total,
                }
            )  # fmt: skip
    return StudyResult([], {"matrices": rows}, arrays)


def mechanism(context) -> StudyResult:
    """Zeroed w_yy, the effective step against noise, and the regression of steps on steps."""
    depth = max(context.config.depths)
    chosen = ev.best(context, "DIAG", depth)
    scalars = chosen.model.apply({"params": chosen.params}, method="scalars")
    scalars = DiagonalScalars(*map(jnp.asarray, scalars))
    test = ev.bed(ev.draw(context, "mechanism/test", context.config.eval_tasks), ev.STRONG)
    rescaling, ablations = _ablations(scalars, test)
    step, curve, steps = _effective_step(context, scalars)
    momentum, fits = _momentum(scalars, test)
    names = ("w_xx", "w_xy", "w_yx", "w_yy")
    layers = [
        {"layer": layer + 1} | {name: float(leaf[layer]) for name, leaf in zip(names, scalars,
                                                                                 strict=True)}
        for layer in range(depth)
    ]  # fmt: skip
    tables = {"scalars": layers, "scalars left out": ablations, "effective step": steps,
              "what explains a step": fits}  # fmt: skip
    notes = [
        f"DIAG, {depth} layers, trained at noise up to 5; the best seed.",
        "The effective step falls with the noise for learners that know nothing of it, too, since "
        "|w_OLS|^2 grows: the table shows how much further it falls for DIAG.",
    ]
    return StudyResult([rescaling, step, *momentum], tables, curve, notes)


def _ablations(scalars, test):
    """The loss when one kind of scalar is zero in all layers."""
    full = np.asarray(excess(_weights(scalars, test.statistics), test.oracle))
    rows, claim = [{"left out": "nothing", "loss": float(full.mean()), "rise": None}], None
    for name in ("yy", "xy", "xx"):
        less = scalars._replace(**{name: jnp.zeros_like(getattr(scalars, name))})
        loss = np.asarray(excess(_weights(less, test.statistics), test.oracle))
        rise, (low, high) = interval(loss, full, statistic=difference)
        rows.append({"left out": f"w_{name}", "loss": float(loss.mean()), "rise": rise,
                     "95% low": low, "95% high": high})  # fmt: skip
        if name == "yy":
            claim = measured("mechanism.rescaling", loss, full, statistic=difference,
                             note="not trained again without it")  # fmt: skip
    return claim, rows


def _effective_step(context, scalars):
    """How far along the least-squares solution the model goes, by noise level."""
    contexts = ev.draw(context, "mechanism/step", context.config.profile_tasks)
    grid = levels(context)[:-2] if context.preset != "smoke" else levels(context)
    plain = ev.best(context, "GD++", max(context.config.depths))
    constant = ev.baselines(context, ev.STRONG)["ConstRR"]
    found: dict[str, list] = {name: [] for name in ("DIAG", "oracle", "GD++", "ConstRR", "OLS")}
    for sigma in grid:
        at = ev.bed_at(contexts, float(sigma))
        ols = algorithms.ridge_weights(at.statistics, 0.0)
        learners = {
            "DIAG": _weights(scalars, at.statistics), "oracle": at.oracle,
            "GD++": ev.weights_of(plain.model, plain.params, at.statistics),
            "ConstRR": constant(at.statistics), "OLS": ols,
        }  # fmt: skip
        for name, w in learners.items():
            found[name].append(np.asarray(jnp.sum(w * ols, axis=1)))
    along_of = {name: np.stack(values, axis=1) for name, values in found.items()}
    along, square = along_of["DIAG"], along_of.pop("OLS")

    def rho(along, square):
        return float(spearmanr(grid, along.mean(0) / square.mean(0)).statistic)

    value, ci95 = interval_of(rho, along, square, resamples=500)
    claim = Measurement("mechanism.step", value, ci95, 1, len(along),
                        f"{len(grid)} noise levels up to {grid[-1]:g}")  # fmt: skip
    curves = {name: a.mean(0) / square.mean(0) for name, a in along_of.items()}
    rows = [
        {"learner": name, "without noise": float(curve[0]), "at the strongest": float(curve[-1]),
         "ratio": float(curve[-1] / curve[0])}
        for name, curve in curves.items()
    ]  # fmt: skip
    return claim, {"sigma": grid} | {f"step/{name}": a for name, a in curves.items()}, rows


def _momentum(scalars, test):
    """Regressions on the preconditioned gradient and the last step: of the step, of its momentum.

    That the last step's coefficient in the regression of w_{l+1} - w_l differs from zero proves
    nothing: rescaling alone gives it one. So the claim is on the regression of the layer's exact
    momentum term (`ico.algorithms.descent_reading`), which is zero in a model without momentum.
    """
    p, q = diagonal_heads(scalars, test.oracle.shape[1])

    @jax.jit
    def steps(statistics):
        with jax.default_matmul_precision("highest"):
            model = algorithms.implicit_model(p, q, statistics)
            reading = algorithms.descent_reading(p, q, statistics, model)
            descent = -jnp.einsum("lbde,lbe->lbd", reading.preconditioner, reading.gradient)
        return model.w, descent, reading.momentum

    # Moments of the regression by task, so that tasks are what the bootstrap draws.
    some = Statistics(*(leaf[:20_000] for leaf in test.statistics))
    w, descent, momentum = (np.asarray(a, np.float64) for a in steps(some))
    rows, r2, coefficients = [], [], []
    for layer in range(1, len(descent)):
        y = w[layer + 1] - w[layer]
        columns = [descent[layer], w[layer] - w[layer - 1]]
        value, ci, beta, beta_ci = _regress(y, columns)
        alone, *_ = _regress(y, columns[:1] * 2, resamples=2)
        fit, _, exact, exact_ci = _regress(momentum[layer], columns)
        rows.append({
            "step": f"{layer} to {layer + 1}", "R^2": value, "R^2 low": ci[0], "R^2 high": ci[1],
            "R^2 of the gradient alone": alone, "of the gradient": beta[0],
            "of the last step": beta[1], "last step low": beta_ci[0], "last step high": beta_ci[1],
            "momentum term's": exact[1], "its low": exact_ci[0], "its high": exact_ci[1],
            "its R^2": fit,
            "momentum's share of the step": float(np.sqrt(np.sum(momentum[layer] ** 2)
                                                          / np.sum(y**2))),
        })  # fmt: skip
        r2.append((value, ci))
        coefficients.append((exact[1], exact_ci))
    worst, least = min(r2, key=lambda a: a[0]), min(coefficients, key=lambda a: a[0])
    count, note = len(some.xy), f"{len(r2)} steps, all but the first"
    return [
        Measurement("mechanism.momentum_fit", worst[0], worst[1], 1, count, note),
        Measurement("mechanism.momentum", least[0], least[1], 1, count, note),
    ], rows


def _regress(y_TD, columns, resamples: int = 500):
    """R^2 and the coefficients of a regression over tasks and coordinates, tasks resampled."""
    x_TDC = np.stack(columns, axis=-1)
    xx = np.einsum("tdc,tde->tce", x_TDC, x_TDC)
    xy = np.einsum("tdc,td->tc", x_TDC, y_TD)
    yy = np.sum(y_TD**2, axis=1)

    def fit(xx, xy, yy):
        # Of columns that are the same each gets half.
        beta = np.linalg.pinv(xx.mean(0), rcond=1e-10, hermitian=True) @ xy.mean(0)
        # The mean of y is zero by symmetry (w and -w are alike), so this is the usual R^2.
        explained, total = beta @ xy.mean(0), yy.mean()
        return float(explained / total) if total > 0 else float("nan"), beta

    value, beta = fit(xx, xy, yy)
    rng = np.random.default_rng(0)
    draws = [fit(*(a[chosen] for a in (xx, xy, yy)))
             for chosen in rng.integers(0, len(yy), (resamples, len(yy)))]  # fmt: skip
    r2 = np.percentile([draw[0] for draw in draws], (2.5, 97.5))
    last = np.percentile([draw[1][1] for draw in draws], (2.5, 97.5))
    return value, tuple(map(float, r2)), beta, tuple(map(float, last))


# Theorem 5.1 -------------------------------------------------------------------------------------

_TOLERANCE = 1e-4  # of the mean squared error over eigenvalues, relative to no step at all
_STARTS, _KEPT = 3, 4  # keeping one alone, a chain of layers may be led into a poor minimum
_EIGENVALUES = 100
_DEEPEST = 30  # layers


# Vectors of a hundred numbers: threads for them wait on each other, 25 times longer on busy cores.
@threadpoolctl.threadpool_limits.wrap(limits=1)
def gd_plus_plus_convergence(context) -> StudyResult:
    """Layers with which GD++ brings noise-free regression below a tolerance, by condition number.

    In an eigenvector of sum x x^T with eigenvalue v GD++ keeps the eigenvalue of its own tokens
    and an error e, from 1: `e <- e (1 + w_yx v), v <- v (1 + w_xx v)^2`. Its scalars are fitted to
    each spectrum by L-BFGS, more layers starting from fewer. A spectrum has many more eigenvalues
    than there are layers, or a step for each would do. Beside it gradient descent, w_xx = 0,
    fitted the same way.
    """
    smoke = context.preset == "smoke"
    powers = np.arange(1, 4 if smoke else 9)
    rows, needed = [], []
    for power in powers:
        kappa, counts = 4.0**power, []
        for k in range(context.config.spectra):
            spectrum = _spectrum(context, kappa, f"{power}/{k}")
            counts.append(_layers_needed(spectrum, context.seed + k))
        needed.append(counts)
        row: dict = {"condition number": kappa, "layers, mean": float(np.mean(counts)),
                     "fewest": float(np.min(counts)), "most": float(np.max(counts))}  # fmt: skip
        if not smoke:  # its many layers are most of the search
            descent = _layers_needed(_spectrum(context, kappa, f"{power}/0"), context.seed, False)
            row["gradient descent"] = descent if np.isfinite(descent) else f"more than {_DEEPEST}"
        rows.append(row)
    logs, needed = np.log(4.0) * powers, np.array(needed)  # [kappas], [kappas, K]

    def r_squared(layers_KP):
        y = layers_KP.mean(0)
        return float(np.corrcoef(logs, y)[0, 1] ** 2) if np.ptp(y) > 0 else float("nan")

    value, ci95 = interval_of(r_squared, needed.T)
    note = (f"condition numbers 4 to {4.0 ** powers[-1]:g}, tolerance {_TOLERANCE:g}; the interval "
            f"is over {needed.shape[1]} spectra at each")  # fmt: skip
    claim = Measurement("gd_plus_plus_convergence.linear", value, ci95, 0, needed.size, note)
    bent = 1 - np.var(needed.mean(1) - np.polyval(np.polyfit(logs, needed.mean(1), 2), logs)) / (
        np.var(needed.mean(1))
    )
    slope, intercept = np.polyfit(logs, needed.mean(1), 1)
    notes = [
        f"Layers = {intercept:.2f} + {slope:.2f} log(condition number).",
        f"A parabola in the logarithm explains {bent:.3f}, a line {value:.3f}: the band alone does "
        "not tell a line from a gentle curve.",
        "Between two depths the layers are interpolated in the logarithm of the error.",
    ]
    arrays = {"kappa": 4.0**powers, "layers": needed, "line": np.array([slope, intercept])}
    return StudyResult([claim], {"layers needed": rows}, arrays, notes)


def _spectrum(context, kappa: float, name: str) -> np.ndarray:
    """Eigenvalues, log-uniform between 1 / kappa and 1, the ends among them."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(context.key(f"spectrum/{name}"))))
    inner = np.exp(-np.log(kappa) * rng.uniform(size=_EIGENVALUES - 2))
    return np.concatenate([[1.0], inner, [1 / kappa]])


def _layers_needed(spectrum, seed: int, curvature: bool = True) -> float:
    """The fewest layers below the tolerance, interpolated in log error; infinite if too many.

    A minimum over scalars, found as far as a search finds it: the best few models of a depth are
    each continued by one more layer, from several starts.
    """
    rng = np.random.default_rng(seed)
    models, before = [np.zeros((0, 2))], 0.0
    for depth in range(1, _DEEPEST + 1):
        found = [
            _fit(spectrum, model, rng, start, curvature)
            for model in models
            for start in range(_STARTS)
        ]
        found = sorted(found, key=lambda pair: pair[0])[:_KEPT]
        error, models = found[0][0], [model for _, model in found]
        if error <= np.log(_TOLERANCE):
            return depth - (np.log(_TOLERANCE) - error) / max(before - error, 1e-12)
        before = error
    return float("inf")


def _fit(spectrum, previous, rng, start: int, curvature: bool):
    """The log error and the scalars [L, 2] (w_xx, w_yx) of a model with one layer more."""
    # Behind the layers found, the next one acts on what they left.
    more = np.array([[-0.5 * curvature, -1.0]]) * np.exp(
        0.5 * rng.normal(size=(1, 2)) * (start > 0)
    )
    x = np.concatenate([previous, more / _largest(spectrum, previous)])

    def error(flat):
        value, gradient = _log_error(flat.reshape(-1, 2), spectrum)
        return value, np.where(curvature | (np.arange(flat.size) % 2 == 1), gradient, 0)

    # The line search tries steps so long that they overflow, and turns back by itself.
    with np.errstate(over="ignore", invalid="ignore"):
        best = scipy.optimize.minimize(
            error, x.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300}
        )
    return float(best.fun), best.x.reshape(-1, 2)


def _largest(spectrum, scalars) -> float:
    values = spectrum
    for w_xx, _ in scalars:
        values = values * (1 + w_xx * values) ** 2
    return float(values.max())


def _log_error(scalars, spectrum):
    """log of the mean squared error, and its gradient, in float64 by hand."""
    values, error = spectrum, np.ones_like(spectrum)
    tape = []
    for w_xx, w_yx in scalars:
        tape.append((values, error))
        error, values = error * (1 + w_yx * values), values * (1 + w_xx * values) ** 2
    mean = np.mean(error**2) + 1e-300
    d_error, d_values = 2 * error / (len(error) * mean), np.zeros_like(spectrum)
    gradient = np.zeros_like(scalars)
    for layer in reversed(range(len(scalars))):
        (values, error), (w_xx, w_yx) = tape[layer], scalars[layer]
        grow = 1 + w_xx * values
        gradient[layer] = np.sum(d_values * 2 * grow * values**2), np.sum(d_error * error * values)
        d_error, d_values = (
            d_error * (1 + w_yx * values),
            d_error * error * w_yx + d_values * grow * (grow + 2 * w_xx * values),
        )
    return float(np.log(mean)), gradient.ravel()
