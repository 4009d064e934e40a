"""Fig. 4: the matrices P and Q of a trained FULL model, and how much of them is diagonal.

Dimension key: L layers, E token width.
"""

import numpy as np

from experiments.noisy_regression.paper import paper
from experiments.noisy_regression.variants import best
from ico import lab, report
from ico.lab import Records


@paper.study("What do the matrices P and Q of a trained FULL model look like?")
def weights(run):
    """P and Q of the best seed at noise up to 5."""
    chosen = best(run, "FULL", max(run.config.full_depths))
    for name in ("p", "q"):
        yield lab.record(matrix=name.upper(), layers=chosen.params[name][:, 0])


@weights.table("matrices")
def _shares(records: Records) -> list[dict]:
    rows = []
    for record in records:
        for layer, matrix_EE in enumerate(record["layers"], start=1):
            x, y = np.diag(matrix_EE)[:-1], matrix_EE[-1, -1]
            held = len(x) * x.mean() ** 2 + y**2
            rows.append(
                {
                    "matrix": record["matrix"],
                    "layer": layer,
                    "mean of x diagonal": float(x.mean()),
                    "its deviation": float(x.std()),
                    "y diagonal": float(y),
                    "share of squares that DIAG can hold": float(held / np.sum(matrix_EE**2)),
                }
            )
    return rows


@weights.figure(
    "Paper, Fig. 4. The matrices P and Q of the trained FULL model, one colour scale each; the "
    "last row and column belong to y."
)
def _matrices(records: Records):
    fig, axes = report.canvas(len(records.stack("layers")[0]), len(records), height=2.4)
    for row, record in zip(axes, records, strict=True):
        for layer, (ax, matrix_EE) in enumerate(zip(row, record["layers"], strict=True), start=1):
            top = float(np.abs(matrix_EE).max())
            picture = ax.imshow(matrix_EE, cmap="RdBu_r", vmin=-top, vmax=top)
            ax.set(title=f"{record['matrix']}, layer {layer}", xticks=[], yticks=[])
            ax.grid(False)
            fig.colorbar(picture, ax=ax, shrink=0.7)
    return fig
