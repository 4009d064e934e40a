"""Theorem 5.1: the layers GD++ needs grow linearly with the logarithm of the condition number.

In an eigenvector of sum x x^T with eigenvalue v, GD++ keeps the eigenvalue of its own tokens and an
error e, from 1: `e <- e (1 + w_yx v), v <- v (1 + w_xx v)^2`. Its scalars are fitted to each
spectrum by L-BFGS, more layers starting from fewer. A spectrum has many more eigenvalues than there
are layers, or a step for each would do. Beside it stands gradient descent, w_xx = 0, fitted alike.

Dimension key: N condition numbers, K spectra of each, L layers, V eigenvalues.
"""

import jax
import numpy as np
import scipy.optimize
import threadpoolctl
from jaxtyping import Float

from experiments.noisy_regression.paper import look_of, paper
from ico import lab, report
from ico.lab import Records

_TOLERANCE = 1e-4  # of the mean squared error over eigenvalues, relative to no step at all
_STARTS, _KEPT = 3, 4  # keeping one alone, a chain of layers may be led into a poor minimum
_EIGENVALUES = 100
_DEEPEST = 30  # layers


@paper.study("How many layers of GD++ does a condition number take?")
def gd_plus_plus_convergence(run):
    """Layers until the error is below a tolerance, by condition number."""
    for power in range(1, run.config.condition_numbers + 1):
        kappa = 4.0**power
        spectra = [_spectrum(run, kappa, f"{power}/{k}") for k in range(run.config.spectra)]
        counts = [layers_needed(spectrum, run.seed + k) for k, spectrum in enumerate(spectra)]
        yield lab.record(method="GD++", kappa=kappa, layers=counts)
        if run.config.count_gradient_descent:
            descent = layers_needed(spectra[0], run.seed, curvature=False)
            yield lab.record(method="gradient descent", kappa=kappa, layers=np.asarray([descent]))


gd_plus_plus_convergence.note(
    "Between two depths the layers are interpolated in the logarithm of the error."
)


def _curve(records: Records) -> tuple[np.ndarray, np.ndarray]:
    """Condition numbers [N], and layers of GD++ [K, N]."""
    found = records.where(method="GD++")
    return np.array(found.axis("kappa")), found.stack("layers").T


@gd_plus_plus_convergence.claim(
    "linear",
    "The layers that GD++ needs grow linearly with the logarithm of the condition number",
    "Theorem 5.1",
    unit="R^2",
    band=(0.9, None),
)
def _linear(records: Records) -> lab.Measurement:
    kappa_N, layers_KN = _curve(records)

    def explained(layers_KN):
        y = layers_KN.mean(0)
        rho = np.corrcoef(np.log(kappa_N), y)[0, 1] if np.ptp(y) > 0 else float("nan")
        return float(rho**2)

    value, ci95 = report.interval_of(explained, layers_KN)
    note = (
        f"condition numbers 4 to {kappa_N[-1]:g}, tolerance {_TOLERANCE:g}; the interval is over "
        f"{len(layers_KN)} spectra at each"
    )
    return lab.Measurement(value, ci95, 0, layers_KN.size, note)


@gd_plus_plus_convergence.table("layers needed")
def _layers(records: Records) -> list[dict]:
    rows = []
    for kappa in records.axis("kappa"):
        found = records.where(kappa=kappa)
        layers_K = found.one(method="GD++")["layers"]
        row = {
            "condition number": kappa,
            "layers, mean": float(layers_K.mean()),
            "fewest": float(layers_K.min()),
            "most": float(layers_K.max()),
        }
        for other in found.where(method="gradient descent"):
            count = float(other["layers"][0])
            row["gradient descent"] = count if np.isfinite(count) else f"more than {_DEEPEST}"
        rows.append(row)
    return rows


@gd_plus_plus_convergence.table("is it a line?")
def _fits(records: Records) -> list[dict]:
    """The band alone does not tell a line from a gentle curve."""
    kappa_N, layers_KN = _curve(records)
    logs_N, mean_N, rows = np.log(kappa_N), layers_KN.mean(0), []
    for curve, degree in (("line", 1), ("parabola", 2)):
        fit = np.polyfit(logs_N, mean_N, degree)
        share = 1 - np.var(mean_N - np.polyval(fit, logs_N)) / np.var(mean_N)
        fitted = " + ".join(f"{c:.2f} log^{p}" for p, c in enumerate(fit[::-1]))
        rows.append({"layers as a function": curve, "fit": fitted, "explained": float(share)})
    return rows


@gd_plus_plus_convergence.figure(
    "Theorem 5.1. Layers of GD++, scalars fitted to each spectrum, until the mean squared error "
    "over its hundred eigenvalues is 1e-4 of its start; interpolated between depths. Circles: spectra "
    "drawn log-uniformly at a condition number."
)
def _layers_by_condition_number(records: Records):
    kappa_N, layers_KN = _curve(records)
    logs_N = np.log(kappa_N)
    fig, axes = report.canvas(1)
    ax = axes[0, 0]
    style = look_of("GD++") | {"linestyle": "none", "marker": "o", "fillstyle": "none"}
    ax.plot(kappa_N, layers_KN.T, alpha=0.5, **style)
    line = np.polyval(np.polyfit(logs_N, layers_KN.mean(0), 1), logs_N)
    ax.plot(kappa_N, line, color="black", linestyle="--", label="line fitted to the means")
    ax.set(xscale="log", xlabel="condition number", ylabel="layers of GD++")
    ax.set_xticks(kappa_N, [f"{value:g}" for value in kappa_N])
    ax.minorticks_off()
    ax.legend()
    return fig


def _spectrum(run: lab.Run, kappa: float, name: str) -> Float[np.ndarray, "V"]:
    """Eigenvalues, log-uniform between 1 / kappa and 1, the ends among them."""
    rng = np.random.default_rng(np.asarray(jax.random.key_data(run.key(f"spectrum/{name}"))))
    inner = np.exp(-np.log(kappa) * rng.uniform(size=_EIGENVALUES - 2))
    return np.concatenate([[1.0], inner, [1 / kappa]])


# Vectors of a hundred numbers: threads for them wait on each other, 25 times longer on busy cores.
@threadpoolctl.threadpool_limits.wrap(limits=1)
def layers_needed(spectrum: Float[np.ndarray, "V"], seed: int, *, curvature: bool = True) -> float:
    """The fewest layers below the tolerance, interpolated in log error; infinite if too many.

    A minimum over scalars, found as far as a search finds it: the best few models of a depth are
    each continued by one more layer, from several starts.

    Args:
      spectrum: eigenvalues.
      seed: of the starts.
      curvature: whether w_xx is fitted too; without it this is gradient descent.
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
        value, gradient = log_error(flat.reshape(-1, 2), spectrum)
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


def log_error(
    scalars: Float[np.ndarray, "L 2"], spectrum: Float[np.ndarray, "V"]
) -> tuple[float, Float[np.ndarray, "2*L"]]:
    """Log of the mean squared error, and its gradient by hand, in float64.

    Args:
      scalars: w_xx and w_yx of each layer.
      spectrum: eigenvalues.

    Returns:
      (value, gradient over the flattened scalars).
    """
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
