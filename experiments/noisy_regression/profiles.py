"""Figs. 2, 5 and 7: losses at each noise level by itself, and after each layer.

Of models trained and baselines tuned at noise up to 5.

Dimension key: G noise levels, L layers, T tasks, D inputs.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from experiments.noisy_regression import testbed
from experiments.noisy_regression.paper import looks, paper
from experiments.noisy_regression.variants import best_models
from ico import algorithms, lab
from ico.lab import Records


def levels(run: lab.Run) -> Float[np.ndarray, "G"]:
    """Noise levels from none to one more than the models were trained with."""
    return np.linspace(0, testbed.STRONG + 1, run.config.noise_levels)


@paper.study("And at each noise level by itself?")
def per_noise_profile(run):
    """Losses at fixed noise levels of models and baselines."""
    contexts = testbed.draw(run, "profile/test", run.config.profile_tasks)
    models = best_models(run, all_depths=True)
    learners = {name: model.weights for name, model in models.items()} | testbed.baselines(run)
    for sigma in map(float, levels(run)):
        test = testbed.at_noise(contexts, (sigma,))
        for name, weights in learners.items():
            loss = algorithms.excess(weights(test.statistics), test.oracle)
            yield lab.record(learner=name, sigma=sigma, loss=loss)


per_noise_profile.note("Trained and tuned for noise up to 5; levels above it lie beyond that.")
per_noise_profile.table("loss by noise level", lab.grid("loss", rows=("sigma",), columns="learner"))


@per_noise_profile.figure(
    "Paper, Fig. 2. The same loss at fixed noise levels, of models trained and baselines tuned at "
    "noise up to 5 (gray line). DIAG is darker the deeper. Bands are 95% intervals over contexts; "
    "the axis ends at 1e-5."
)
def _by_level(records: Records):
    styles = looks(records)
    models = sorted(name for name in styles if name.startswith("DIAG, "))
    for place, name in enumerate(models, start=1):
        styles[name]["alpha"] = 0.35 + 0.65 * place / len(models)
    fig = lab.lines("sigma", "loss", color="learner", looks=styles, log="y")(records)
    fig.axes[0].axvline(testbed.STRONG, color="gray", linewidth=0.8)
    fig.axes[0].set(ylim=(1e-5, None), ylabel="excess over the oracle")
    return fig


@paper.study("What does the implicit model look like after each layer?")
def layer_predictions(run):
    """Its loss after each layer, and its length along the oracle's weights."""
    contexts = testbed.draw(run, "layers/test", run.config.profile_tasks)
    for name, model in best_models(run).items():
        for sigma in (0.0, 1.0, 3.0, 5.0):
            test = testbed.at_noise(contexts, (sigma,))
            w_LTD = model.weights(test.statistics, all_layers=True)
            loss_L = algorithms.excess(w_LTD, test.oracle[None]).mean(1)
            along_L = jnp.sum(w_LTD * test.oracle[None], -1).mean(1)
            curves = {"loss": loss_L, "length": along_L / jnp.sum(test.oracle**2, -1).mean()}
            layer = np.arange(1, len(w_LTD) + 1)
            yield lab.record(model=name, sigma=sigma, layer=layer, **curves)


layer_predictions.note(
    "Length along the oracle: E<w_l, w_oracle> / E|w_oracle|^2, one where they agree."
)


layer_predictions.table("after each layer", lab.points("loss", "length", along="layer"))
layer_predictions.figure(
    lab.lines("layer", "loss", panel="model", color="sigma", log="y", ylabel="excess over oracle"),
    "Paper, Figs. 5 and 7. The implicit model after each layer at four noise levels (the "
    "colours): its excess over the oracle.",
    name="layer_predictions_loss",
)
layer_predictions.figure(
    lab.lines("layer", "length", panel="model", color="sigma", ylabel="length along oracle"),
    "The length of the same models along the oracle's weights, E<w_l, w_oracle> / E|w_oracle|^2.",
    name="layer_predictions_length",
)
