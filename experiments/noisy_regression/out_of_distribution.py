"""Tasks that no model was trained on: shifted inputs, weights, noise and lengths of the context.

Dimension key: T tasks, D inputs, N context pairs.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.noisy_regression import testbed
from experiments.noisy_regression.paper import looks, paper
from experiments.noisy_regression.testbed import FAR
from experiments.noisy_regression.variants import best_models
from ico import lab, tasks
from ico.algorithms import OracleContexts, ridge_weights
from ico.lab import Records
from ico.types import Statistics


@dataclasses.dataclass(frozen=True)
class Shift:
    """A change of the training distribution."""

    name: str
    num_context: int = 0  # 0: as in training
    input_scale: float = 1.0
    weight_scale: float = 1.0
    sigma: float | None = None  # None: as in training
    stretch: float = 1.0  # ratio of the largest to the smallest standard deviation of an input


def shifts(config) -> list[Shift]:
    """What is tried, one change at a time."""
    N = config.num_context
    fewer = max(3 * N // 4, config.num_inputs + 1)
    return [
        Shift("as in training"),
        Shift(f"{fewer} pairs", num_context=fewer),
        Shift(f"{2 * N} pairs", num_context=2 * N),
        Shift("inputs 0.8 times", input_scale=0.8),
        Shift("inputs 1.2 times", input_scale=1.2),
        Shift("inputs stretched 1 to 2", stretch=2.0),
        Shift("weights 0.5 times", weight_scale=0.5),
        Shift("weights 2 times", weight_scale=2.0),
        Shift("sigma 7", sigma=7.0),
        Shift("sigma 10", sigma=10.0),
    ]


@paper.study("What remains on tasks never trained on?")
def out_of_distribution(run):
    """Excess over the oracle of the shifted task, of models and baselines fitted to the old one."""
    config, models = run.config, best_models(run)
    for shift in shifts(config):
        N = shift.num_context or config.num_context
        task = tasks.NoisyRegression(config.profile_tasks, config.num_inputs, N)
        contexts = testbed.draw_task(run.key(f"shift/{shift.name}"), task)
        test, scale_D = shifted(contexts, shift)
        # Linear attention adds up over the context: a model for N pairs is scaled to others.
        per_pair = Statistics(*(leaf * config.num_context / N for leaf in test.statistics))
        weights = {name: model.weights(per_pair) for name, model in models.items()}
        for name, ridge in testbed.baselines(run, num_context=N).items():
            weights[name] = ridge(test.statistics)
        for name, w in weights.items():
            loss = 0.5 * jnp.sum((scale_D[None] * (w - test.oracle)) ** 2, axis=-1)
            yield lab.record(shift=shift.name, learner=name, trained=name in models, loss=loss)


def shifted(contexts: tasks.NoisyContext, shift: Shift) -> tuple[OracleContexts, Float[Array, "D"]]:
    """Contexts of the shifted task with its own oracle, and each input's standard deviation."""
    D = contexts.weights.shape[1]
    scale_D = jnp.asarray(
        shift.input_scale * np.geomspace(shift.stretch**-0.5, shift.stretch**0.5, D),
        contexts.xx.dtype,
    )
    moved = contexts.scaled(scale_D, shift.weight_scale)
    noise = testbed.STRONG if shift.sigma is None else (shift.sigma,)
    sigma = tasks.NoisePrior.of(noise).sigma(contexts.u)
    statistics = moved.at(sigma)
    # w ~ N(0, weight_scale^2 I) is the unit prior at noise sigma / weight_scale.
    oracle = ridge_weights(statistics, (sigma / shift.weight_scale) ** 2)
    return OracleContexts(statistics, oracle, moved.weights), scale_D


out_of_distribution.note(
    "One change at a time; models and baselines are those for noise up to 5. The oracle knows the "
    "shifted task. Statistics are scaled by the number of pairs before a model sees them."
)
out_of_distribution.note(
    f"A mean beyond {FAR:g} is that of a few contexts which a model cubed at every layer: the "
    "second table has their share."
)
out_of_distribution.table("loss", lab.grid("loss", rows=("shift",), columns="learner"))
out_of_distribution.table(
    f"share of contexts beyond {FAR:g}",
    lab.grid("loss", rows=("shift",), columns="learner", of=testbed.share_far, trained=True),
)


@out_of_distribution.figure(
    "Expected excess over the oracle of the shifted task, for models trained and baselines tuned "
    "at noise up to 5. The open marker is the deepest DIAG. Arrows at the right edge: means beyond "
    "100, where a few contexts blow up."
)
def _by_shift(records: Records):
    styles = looks(records, open_deepest=True)
    draw = lab.dots(
        "loss", y="shift", color="learner", most=FAR, looks=styles, xlabel="excess over the oracle"
    )
    return draw(records)
