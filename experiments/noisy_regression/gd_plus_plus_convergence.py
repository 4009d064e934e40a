"""Theorem 5.1: the layers GD++ needs grow linearly with the logarithm of the condition number.

In an eigenvector of sum x x^T with eigenvalue v, GD++ keeps the eigenvalue of its own tokens and an
error e, from 1: `e <- e (1 + w_yx v), v <- v (1 + w_xx v)^2`. Its scalars are fitted to each
spectrum by L-BFGS, more layers starting from fewer. A spectrum has many more eigenvalues than there
are layers, or a step for each would do. Beside it stands gradient descent, w_xx = 0, fitted alike.

Dimension key: N condition numbers, K spectra of each, L layers, V eigenvalues.
"""

import jax
import numpy as np
import threadpoolctl
from jaxtyping import Float

from experiments.noisy_regression.paper import look_of, paper
from ico import algorithms, lab, report
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


@gd_plus_plus_convergence.claim(
    "linear",
    "The layers that GD++ needs grow linearly with the logarithm of the condition number",
    "Theorem 5.1",
    unit="R^2",
    band=(0.9, None),
)
def _linear(records: Records) -> lab.Measurement:
    found = records.where(method="GD++")
    kappa_N, layers_KN = np.array(found.axis("kappa")), found.stack("layers").T

    def explained(layers_KN, degree=1):
        y, logs_N = layers_KN.mean(0), np.log(kappa_N)
        if degree == 1:
            return float(np.corrcoef(logs_N, y)[0, 1] ** 2) if np.ptp(y) > 0 else float("nan")
        return 1 - np.var(y - np.polyval(np.polyfit(logs_N, y, degree), logs_N)) / np.var(y)

    value, ci95 = report.interval_of(explained, layers_KN)
    note = (
        f"condition numbers 4 to {kappa_N[-1]:g}, tolerance {_TOLERANCE:g}; the interval is over "
        f"{len(layers_KN)} spectra at each; a parabola explains {explained(layers_KN, 2):.3f}; "
        "the band alone does not tell a line from a gentle curve"
    )
    return lab.Measurement(value, ci95, 0, layers_KN.size, note)


@gd_plus_plus_convergence.table("layers needed")
def _layers(records: Records) -> list[dict]:
    rows = []
    for record in records:
        counts = {"mean": np.mean, "fewest": np.min, "most": np.max}
        values = {name: float(of(record["layers"])) for name, of in counts.items()}
        finite = np.isfinite(record["layers"]).all()
        rows.append(dict(record.axes) | (values if finite else {"mean": f"more than {_DEEPEST}"}))
    return rows


gd_plus_plus_convergence.figure(
    lab.lines(
        "kappa",
        "layers",
        color="method",
        log="x",
        xlabel="condition number",
        ylabel="layers",
        looks={"GD++": look_of("GD++")},
    ),
    "Theorem 5.1. Layers, scalars fitted to each spectrum, until the mean squared error over its "
    "hundred eigenvalues is 1e-4 of its start; interpolated between depths. Means over spectra "
    "drawn log-uniformly at a condition number, with 95% intervals.",
    name="gd_plus_plus_convergence",
)


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
    import scipy.optimize  # dear to import

    # Behind the layers found, the next one acts on what they left.
    more = np.array([[-0.5 * curvature, -1.0]]) * np.exp(
        0.5 * rng.normal(size=(1, 2)) * (start > 0)
    )
    x = np.concatenate([previous, more / _largest(spectrum, previous)])

    def error(flat):
        value, gradient = algorithms.gd_plus_plus_error(flat.reshape(-1, 2), spectrum)
        return value, np.where([curvature, True], gradient, 0).ravel()

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
