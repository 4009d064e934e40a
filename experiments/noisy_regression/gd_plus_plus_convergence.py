"""Theorem 5.1: the layers GD++ needs grow linearly with the logarithm of the condition number.

GD++'s scalars are fitted to each spectrum (`ico.algorithms.layers_needed`). A spectrum has many
more eigenvalues than there are layers, or a step for each would do. Beside it stands gradient
descent, w_xx = 0, fitted alike.

Dimension key: N condition numbers, K spectra of each.
"""

import jax
import numpy as np
import threadpoolctl

from experiments.noisy_regression.paper import look_of, paper
from ico import algorithms, lab, report
from ico.lab import Records

_TOLERANCE, _DEEPEST, _EIGENVALUES = 1e-4, 30, 100


# Vectors of a hundred numbers: threads for them wait on each other, 25 times longer on busy cores.
@threadpoolctl.threadpool_limits.wrap(limits=1)
def _needed(spectrum, seed: int, **options) -> float:
    return algorithms.layers_needed(spectrum, seed, tolerance=_TOLERANCE, most=_DEEPEST, **options)


@paper.study("How many layers of GD++ does a condition number take?")
def gd_plus_plus_convergence(run):
    """Layers until the error is below a tolerance, by condition number."""
    for power in range(1, run.config.condition_numbers + 1):
        kappa = 4.0**power
        keys = [run.key(f"spectrum/{power}/{k}") for k in range(run.config.spectra)]
        seeds = [np.asarray(jax.random.key_data(key)) for key in keys]
        spectra = [algorithms.log_uniform_spectrum(kappa, _EIGENVALUES, seed) for seed in seeds]
        counts = [_needed(spectrum, run.seed + k) for k, spectrum in enumerate(spectra)]
        yield lab.record(method="GD++", kappa=kappa, layers=counts)
        if run.config.count_gradient_descent:
            descent = _needed(spectra[0], run.seed, curvature=False)
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
)
