"""Are targets and preconditioned inputs read off better, layer by layer? (Figs. 4E and 4F)

The paper: the next token can be read off the tokens after every further layer by a linear probe
with less error, and so can the input preconditioned by the inverse of the past's second moments.

Dimension key: S seeds, L layers, B sequences, T positions, D inputs.
"""

import jax
import numpy as np

from experiments.mesa_optimization import systems
from experiments.mesa_optimization.paper import paper
from experiments.mesa_optimization.token_binding import RIDGE
from ico import lab
from ico.algorithms import preconditioned_inputs
from ico.probes import layerwise_probe_errors

_INVERSE = 1e-3  # regulariser of the preconditioned inputs, as in the authors' code

_preconditioned = jax.jit(preconditioned_inputs)


def target_errors(model, params, fitted, test, positions) -> np.ndarray:
    """1/2 |error|^2 of probes for the next vector, [L + 1, B], mean over positions."""
    (x, y), (test_x, test_y) = (
        _sides(model, params, data, data.targets) for data in (fitted, test)
    )
    errors = [
        layerwise_probe_errors(x[:, :, t], y[:, t], test_x[:, :, t], test_y[:, t], ridge=RIDGE)
        for t in positions
    ]
    return 0.5 * np.mean(errors, axis=0)


def preconditioned_errors(model, params, fitted, test, positions, inputs) -> np.ndarray:
    """Of probes for the preconditioned input: errors over its variance, [L + 1, B].

    Positions below twice the width are left out, and sequences beyond the 99th percentile of its
    length, whose inverse is ill-conditioned.
    """
    (x, y), (test_x, test_y) = (
        _sides(model, params, data, _preconditioned(inputs(data), _INVERSE))
        for data in (fitted, test)
    )
    errors = []
    for t in [t for t in positions if t >= 2 * y.shape[-1]] or positions[-1:]:
        length, test_length = (np.linalg.norm(side[:, t], axis=-1) for side in (y, test_y))
        top = np.quantile(length, 0.99)
        kept, weight = length <= top, test_length <= top
        error = layerwise_probe_errors(
            x[:, kept, t], y[kept, t], test_x[:, :, t], test_y[:, t], ridge=RIDGE
        )
        errors.append(error / np.var(y[kept, t], axis=0).sum() * weight / weight.mean())
    return np.mean(errors, axis=0)


def _sides(model, params, data, y_BTD) -> tuple[np.ndarray, np.ndarray]:
    """The tokens of all layers, [L + 1, B, T, E], and what is to be read off them."""
    return np.asarray(systems.hidden(model, params, data.inputs)), np.asarray(y_BTD)


@paper.study("Are targets and preconditioned inputs read off better, layer by layer?")
def probes(run):
    """How well the next token and the preconditioned input are read off after every layer."""
    config, D = run.config, run.config.dim
    deepest = config.depths[-1]
    subjects = [("constructed", f"LSA-{deepest}", "", lambda data: data.inputs[..., D : 2 * D])]
    if "softmax, linear" in config.models_on("linear"):
        subjects.append(("own", "softmax, linear", "linear", lambda data: data.inputs))
    positions = sorted({t for t in config.probe_positions if t < config.length})
    for tokens, name, system, inputs in subjects:
        trained = (
            systems.train_full(run, name)
            if system
            else systems.train_constructed(run, "linear", deepest)
        )
        data = [systems.held_out(run, part, system) for part in ("probe", "test")]
        error_SLB = trained.by_seed(target_errors, *data, positions)
        unexplained_SLB = trained.by_seed(preconditioned_errors, *data, positions, inputs)
        for layer in range(error_SLB.shape[1]):
            yield lab.record(
                model=name,
                tokens=tokens,
                layer=layer,
                error=error_SLB[:, layer],
                unexplained=unexplained_SLB[:, layer],
            )
    run.note(
        "A linear probe with a constant for each layer and position "
        f"({', '.join(map(str, positions))} from 0), fitted on other sequences; means over these "
        "positions. Layer 0 is the tokens."
    )


probes.claim(
    "target",
    "The next token is read off better after every layer of six (smallest fall of the probe's "
    "error)",
    "Fig. 4E",
    unit=systems.LOSS,
    band=(0.0, None),
    of=lab.falls("error", along="layer", tokens="constructed"),
)
probes.table("probes", lab.rows("error", also=("unexplained",)))
probes.note(
    f"unexplained: the share of the preconditioned input, (sum x x^T + {_INVERSE:g})^-1 x_t over "
    "the past, that its probe leaves; positions below twice the width are left out, and sequences "
    "beyond the 99th percentile of its length."
)
_CAPTION = "Errors of linear probes after each layer (0: the tokens) for the "
for _value, _log, _caption in (
    ("error", "y", f"Paper, Fig. 4E. {_CAPTION}next token."),
    ("unexplained", "", f"Paper, Fig. 4F. {_CAPTION}input preconditioned by the past."),
):
    probes.figure(
        lab.lines("layer", _value, color="model", xlabel="after layer", log=_log),
        _caption,
        name=f"probes_{_value}",
    )
