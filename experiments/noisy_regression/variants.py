"""The paper's models, how they are trained, and the best of their seeds.

Dimension key: S seeds, C noise settings, B tasks in a batch, T tasks, D inputs, L layers.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from experiments.noisy_regression import testbed
from experiments.noisy_regression.testbed import STRONG, Noise
from ico import algorithms, lab, models, tasks
from ico.algorithms import OracleContexts
from ico.models import OneSeed

VARIANTS = {
    "GD++": models.GdPlusPlusLinearTransformer,
    "DIAG": models.DiagonalLinearTransformer,
    "DIAG, free scalars": models.FreeDiagonalLinearTransformer,
    "FULL": models.FullLinearTransformer,
}


def make_model(variant: str, num_layers: int, num_inputs: int):
    """One of the four models."""
    # Every layer cubes what it is given: deep models must start close to doing nothing.
    scale = 0.01 if variant == "FULL" or num_layers > 4 else 0.03
    model = VARIANTS[variant](num_layers=num_layers, init_scale=scale)
    return model.clone(num_inputs=num_inputs) if variant == "FULL" else model


@lab.once
def train_variant(run: lab.Run, variant: str, depth: int) -> tuple[lab.Trained, tuple[Noise, ...]]:
    """The models of a variant and depth [S, C, ...], and the C settings they are trained for.

    The paper: Adam at 1e-4, batch 2048, 200,000 steps, on the squared error of one query; clipping
    and initialisation are UNVERIFIED. Here the loss of a context is 1/2 |w - w_oracle|^2, whose
    expectation differs from theirs by a constant, so that the noise of query and label is gone; the
    learning rate is higher, there are fewer steps, and large losses are tamed
    (`ico.models.weights_loss`). Seed s of every setting starts alike and sees the same contexts, at
    its setting's noise.
    """
    config, far = run.config, 100.0
    settings, rate = config.settings, config.learning_rate
    steps = min(config.steps_per_layer * depth, config.most_steps)
    if variant == "FULL":
        settings = settings if config.full_everywhere else (STRONG,)
        # Tamed less: else a few contexts in a hundred thousand stay far off, as pilots showed.
        steps, rate, far = config.full_steps, config.full_learning_rate, 1e4
    elif variant == "DIAG" and depth == config.deep_depth and depth not in config.depths:
        settings, steps, rate = (STRONG,), config.deep_steps, config.deep_learning_rate
    D = config.num_inputs
    task = tasks.NoisyRegression(config.batch_size, D, config.num_context)
    spectra, sampler = None, algorithms.sample_contexts
    if variant != "FULL":
        # A model that acts through scalars does not mind a turn of the inputs; FULL does.
        spectra, sampler = _spectra(run), algorithms.sample_spectral_contexts
    model = make_model(variant, depth, D)

    priors = [tasks.NoisePrior.of(noise) for noise in settings]
    trained = lab.train(
        run,
        f"{variant.replace(', ', '-').replace(' ', '_').lower()}-{depth}",
        model,
        functools.partial(sampler, task=task),
        lab.Recipe(steps, rate, schedule="cosine", warmup=0.1, clip=0.3),
        loss=models.weights_loss(model, far),
        init=functools.partial(models.init_weights_model, model, D),
        given=spectra,
        settings=jax.tree.map(lambda *leaves: np.stack(leaves), *priors),
        spec={
            "variant": variant,
            "settings": [testbed.name_of(noise) for noise in settings],
            "far": far,
        },
    )
    return trained, settings


@lab.once
def _spectra(run: lab.Run) -> Float[Array, "count D"]:
    config = run.config
    task = tasks.NoisyRegression(config.batch_size, config.num_inputs, config.num_context)
    return jnp.asarray(tasks.wishart_spectra(run.key("spectra"), task, config.spectra_pool))


def losses(
    trained: lab.Trained, setting: int, contexts: OracleContexts
) -> Float[np.ndarray, "S T"]:
    """The losses of all seeds of one setting."""
    weights = [
        models.weights_of(trained.model, trained.seed(seed, setting), contexts.statistics)
        for seed in range(trained.num_seeds)
    ]
    return np.stack([algorithms.excess(w, contexts.oracle) for w in weights])


@lab.once
def best(run: lab.Run, variant: str, depth: int, noise: Noise = STRONG) -> OneSeed:
    """The best seed of a variant, depth and noise setting.

    Raises:
      ValueError: no seed has a finite loss.
    """
    trained, settings = train_variant(run, variant, depth)
    place = settings.index(noise)
    contexts = testbed.at_noise(testbed.draw(run, "choice", run.config.choice_tasks), noise)
    means = losses(trained, place, contexts).mean(axis=1)
    seed = lab.best_seed(means)
    return OneSeed(trained.model, trained.seed(seed, place), seed)


def best_models(run: lab.Run, *, all_depths: bool = False) -> dict[str, OneSeed]:
    """The best deep models trained at noise up to 5, by names such as "DIAG, 4 layers".

    Args:
      run: whose configuration says how deep they are.
      all_depths: whether DIAG is given at every depth.
    """
    config = run.config
    depths = config.depths if all_depths else [max(config.depths)]
    wanted = [
        ("GD++", max(config.depths)),
        *(("DIAG", depth) for depth in depths),
        ("FULL", max(config.full_depths)),
        ("DIAG", config.deep_depth),
    ]
    return {f"{v}, {depth} layers": best(run, v, depth) for v, depth in dict.fromkeys(wanted)}
