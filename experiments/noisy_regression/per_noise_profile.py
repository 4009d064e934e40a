"""Fig. 2: losses at each noise level by itself, of what was trained and tuned at noise up to 5.

Dimension key: T tasks, G noise levels.
"""

import numpy as np
from jaxtyping import Float

from experiments.noisy_regression.contexts import (
    STRONG,
    at_noise,
    baselines,
    draw_contexts,
    excess,
    level,
)
from experiments.noisy_regression.paper import look_of, paper, side_by_side
from experiments.noisy_regression.variants import best_models
from ico import lab
from ico.lab import Records


def levels(run: lab.Run) -> Float[np.ndarray, "G"]:
    """Noise levels from none to one more than the models were trained with."""
    return np.linspace(0, STRONG + 1, run.config.noise_levels)


@paper.study("And at each noise level by itself?")
def per_noise_profile(run):
    """Losses at fixed noise levels of models and baselines."""
    contexts = draw_contexts(run, "profile/test", run.config.profile_tasks)
    models = best_models(run, all_depths=True)
    learners = {name: model.weights for name, model in models.items()} | baselines(run)
    for sigma in levels(run):
        test = at_noise(contexts, level(sigma))
        for name, weights in learners.items():
            loss = excess(weights(test.statistics), test.oracle)
            yield lab.record(learner=name, sigma=float(sigma), loss=loss)


per_noise_profile.note("Trained and tuned for noise up to 5; levels above it lie beyond that.")
per_noise_profile.table(
    "loss by noise level", side_by_side("sigma", of=lambda record: float(record["loss"].mean()))
)


@per_noise_profile.figure(
    "Paper, Fig. 2. The same loss at fixed noise levels, of models trained and baselines tuned at "
    "noise up to 5 (gray line). DIAG is darker the deeper. Bands are 95% intervals over contexts; "
    "the axis ends at 1e-5."
)
def _by_level(records: Records):
    learners = records.axis("learner")
    depths = sorted({int(name.split()[1]) for name in learners if name.startswith("DIAG, ")})
    looks = {name: look_of(name) for name in learners}
    for place, depth in enumerate(depths, start=1):
        looks[f"DIAG, {depth} layers"] |= {"alpha": 0.35 + 0.65 * place / len(depths)}
    xlabel, ylabel = "standard deviation of the noise", "excess over the oracle"
    lines = lab.lines("sigma", "loss", color="learner", looks=looks, xlabel=xlabel, ylabel=ylabel)
    fig = lines(records)
    (ax,) = fig.axes
    ax.axvline(STRONG, color="gray", linewidth=0.8)
    ax.set_yscale("log")
    ax.set_ylim(bottom=max(1e-5, ax.get_ylim()[0]))
    return fig
