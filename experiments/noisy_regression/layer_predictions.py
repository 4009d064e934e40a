"""Figs. 5 and 7: the implicit linear model after each layer, at four noise levels.

Dimension key: L layers, T tasks, D inputs.
"""

import jax.numpy as jnp
import numpy as np

from experiments.noisy_regression.contexts import at_noise, draw_contexts, excess, level
from experiments.noisy_regression.paper import paper
from experiments.noisy_regression.variants import best_models
from ico import lab
from ico.lab import Records


@paper.study("What does the implicit model look like after each layer?")
def layer_predictions(run):
    """Its loss after each layer, and its length along the oracle's weights."""
    contexts = draw_contexts(run, "layers/test", run.config.profile_tasks)
    for name, model in best_models(run).items():
        for sigma in (0.0, 1.0, 3.0, 5.0):
            test = at_noise(contexts, level(sigma))
            w_LTD = model.weights(test.statistics, all_layers=True)
            along_LT = jnp.sum(w_LTD * test.oracle[None], -1)
            square = jnp.mean(jnp.sum(test.oracle**2, -1))
            yield lab.record(
                model=name,
                sigma=sigma,
                layer=np.arange(1, len(w_LTD) + 1),
                loss=excess(w_LTD, test.oracle[None]).mean(1),
                length=along_LT.mean(1) / square,
            )


layer_predictions.note(
    "Length along the oracle: E<w_l, w_oracle> / E|w_oracle|^2, one where they agree."
)


@layer_predictions.table("after each layer")
def _rows(records: Records) -> list[dict]:
    return [
        {
            "model": record["model"],
            "sigma": record["sigma"],
            "layer": int(layer),
            "loss": float(loss),
            "length along the oracle": float(length),
        }
        for record in records
        for layer, loss, length in zip(
            record["layer"], record["loss"], record["length"], strict=True
        )
    ]


layer_predictions.figure(
    lab.lines("layer", "loss", panel="model", color="sigma", log="y", ylabel="excess over oracle"),
    "Paper, Figs. 5 and 7. The implicit model after each layer at four noise levels: its excess "
    "over the oracle.",
    name="layer_predictions_loss",
)
layer_predictions.figure(
    lab.lines("layer", "length", panel="model", color="sigma", ylabel="length along oracle"),
    "The length of the same models along the oracle's weights, E<w_l, w_oracle> / E|w_oracle|^2.",
    name="layer_predictions_length",
)
