"""Training the models of the paper: noise settings and seeds under one vmap, each an artefact.

Dimension key: C noise settings, S seeds, M = C S models, B tasks in a batch, K intervals.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.launch import Context
from ico import tasks, train
from ico.algorithms import ridge_weights
from ico.models import (
    DiagonalLinearTransformer,
    FreeDiagonalLinearTransformer,
    FullLinearTransformer,
    GdPlusPlusLinearTransformer,
)

VARIANTS = {
    "GD++": GdPlusPlusLinearTransformer,
    "DIAG": DiagonalLinearTransformer,
    "DIAG, free scalars": FreeDiagonalLinearTransformer,
    "FULL": FullLinearTransformer,
}


class Prior(NamedTuple):
    """A prior of sigma that can be traced: K equally likely intervals, uniform in each.

    A uniform prior is one interval, repeated; a value is an interval of no length. So all settings
    of a table have equal shapes and train under one vmap.
    """

    low: jax.Array | np.ndarray  # [K]
    high: jax.Array | np.ndarray  # [K]

    def sigma(self, u_B):
        """The quantile function at u in [0, 1)."""
        place = u_B * self.low.shape[0]
        which = jnp.floor(place).astype(int)
        low, high = self.low[which], self.high[which]
        return low + (high - low) * (place - which)


_INTERVALS = 6  # divisible by one, two and three


def prior_of(noise) -> Prior:
    """The prior of one of the paper's settings: a number (uniform up to it) or a set of values."""
    if isinstance(noise, tuple):
        values = np.repeat(np.array(noise, np.float32), _INTERVALS // len(noise))
        return Prior(values, values)
    edges = np.linspace(0, noise, _INTERVALS + 1, dtype=np.float32)
    return Prior(edges[:-1], edges[1:])


def name_of(noise) -> str:
    """A setting's name in tables."""
    if isinstance(noise, tuple):
        return "{" + ", ".join(f"{value:g}" for value in noise) + "}"
    return f"{noise:g}"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a model is trained: Adam on the expected excess, the rate falling to zero by a cosine.

    The paper: Adam at 1e-4, batch 2048, 200,000 steps, on the squared error of one query; clipping
    and initialisation are UNVERIFIED. Here the loss of a context is 1/2 |w - w_oracle|^2, whose
    expectation differs from theirs by a constant, so that the noise of query and label is gone; a
    loss l counts as `far log(1 + l / far)`, which is l where it is small and tames what is far
    off. The rate is higher, and there are fewer steps. Contexts of models that act through scalars
    are drawn in their own eigenvectors, spectra from a pool.
    """

    num_steps: int
    batch_size: int
    learning_rate: float
    clip: float = 0.3
    warmup: float = 0.1  # share of the steps
    far: float = 100.0  # beyond about this a context's loss counts by its logarithm

    def optimizer(self) -> optax.GradientTransformation:
        """Moves the model, never the prior that travels beside it."""
        warmup = int(self.warmup * self.num_steps)
        rate = optax.warmup_cosine_decay_schedule(
            0.0, self.learning_rate, warmup, max(self.num_steps, warmup + 1)
        )
        moved = optax.chain(optax.clip_by_global_norm(self.clip), optax.adam(rate))
        labels = {"model": "moved", "prior": "kept"}
        return optax.multi_transform({"moved": moved, "kept": optax.set_to_zero()}, labels)


def make_model(variant: str, num_layers: int, num_inputs: int):
    """One of the four models."""
    # Every layer cubes what it is given: deep models must start close to doing nothing.
    scale = 0.01 if variant == "FULL" or num_layers > 4 else 0.03
    model = VARIANTS[variant](num_layers=num_layers, init_scale=scale)
    return model.clone(num_inputs=num_inputs) if variant == "FULL" else model


def excess(w, oracle):
    """The expected excess over the oracle at a query x ~ N(0, I): 1/2 |w - w_oracle|^2."""
    return 0.5 * jnp.sum((w - oracle) ** 2, axis=-1)


_LOST = 1e8  # beyond it a context's loss does not count


@functools.lru_cache(maxsize=32)
def loss_of(model, far: float):
    """The training loss `loss(params, context)`; the same function for equal models.

    A loss l counts as `far log(1 + l / far)`, and one beyond `_LOST` not at all. Every layer cubes
    what it is given, so that an untamed model of seven layers maps some contexts beyond all
    numbers, and one of them would be the whole gradient. Trained models are far below.
    """

    def loss(params, context):
        prior = Prior(*map(jax.lax.stop_gradient, params["prior"]))
        sigma = prior.sigma(context.u)
        statistics = context.at(sigma)
        oracle = ridge_weights(statistics, sigma**2)

        def losses(statistics):
            w = model.apply({"params": params["model"]}, statistics, method="weights")
            return excess(w, oracle)

        # Looked for first, for what is infinite has no gradient to leave out afterwards.
        kept = jax.lax.stop_gradient(losses(statistics)) < _LOST
        statistics = jax.tree.map(
            lambda leaf: jnp.where(kept.reshape(-1, *[1] * (leaf.ndim - 1)), leaf, 0), statistics
        )
        tamed = far * jnp.log1p(losses(statistics) / far)
        return jnp.mean(tamed), {"lost": 1 - jnp.mean(kept)}

    return loss


class Trained(NamedTuple):
    """Parameters with leading axes [S, C, ...], in the order of the settings, and the history."""

    model: Any
    params: Any
    history: dict[str, np.ndarray]


def train_models(
    context: Context, variant: str, num_layers: int, settings: tuple, recipe: Recipe
) -> Trained:
    """Trains a model for every noise setting and seed, all at once, or finds them trained.

    Found so they have no history.

    Args:
      context: where and with which seed; its configuration gives the number of seeds.
      variant: one of `VARIANTS`.
      num_layers: of the model.
      settings: of the noise.
      recipe: how.
    """
    config = context.config
    task = tasks.NoisyRegression(recipe.batch_size, config.num_inputs, config.num_context)
    model = make_model(variant, num_layers, config.num_inputs)
    name = f"{variant.replace(', ', '-').replace(' ', '_').lower()}-{num_layers}"
    num_seeds, C = config.num_seeds, len(settings)
    arguments = {
        field.name: getattr(model, field.name)
        for field in dataclasses.fields(model)
        if field.name not in ("parent", "name")
    }
    spec = {
        "model": {"class": type(model).__name__, "arguments": arguments},
        "variant": variant, "layers": num_layers,
        "settings": [name_of(noise) for noise in settings],
        "task": task, "recipe": recipe, "seeds": num_seeds, "seed": context.seed,
        "spectra": config.spectra_pool,
    }  # fmt: skip
    directory = train.artifact_directory(context.directory / "checkpoints", name, spec)
    if (found := train.load_artifact(directory)) is not None:
        return Trained(model, found, {})
    optimizer = recipe.optimizer()
    priors = [prior_of(noise) for noise in settings]
    keys = jax.random.split(context.key(f"train/{name}"), num_seeds)
    empty = tasks.noisy_context(keys[0], dataclasses.replace(task, batch_size=2))
    sampler = functools.partial(tasks.noisy_context, config=task)
    if variant != "FULL":
        # What acts through scalars does not mind a turn of the inputs; FULL does.
        spectra = tasks.wishart_spectra(context.key("spectra"), task, config.spectra_pool)
        sampler = functools.partial(
            tasks.spectral_context, spectra=jnp.asarray(spectra), config=task
        )

    def init(key):
        statistics = empty.at(jnp.zeros(2))
        params = model.init(key, statistics, method="weights")["params"]
        return {"model": params, "prior": priors[0]}

    # Seed s of every setting starts alike and sees the same contexts, at its setting's noise.
    state = train.init_state(init, optimizer, jnp.repeat(keys, C))
    own = Prior(*(jnp.tile(jnp.stack(leaf), (num_seeds, 1)) for leaf in zip(*priors, strict=True)))
    state = state._replace(params=state.params | {"prior": own})
    every = max(1, min(100, recipe.num_steps))
    result = train.fit(
        train.make_step(loss_of(model, recipe.far), optimizer),
        state,
        sampler,
        train.LoopConfig(recipe.num_steps, steps_per_call=every, checkpoint_every=10 * every),
        directory=directory,
        label=name,
        progress=context.progress,
    )
    params = jax.tree.map(
        lambda leaf: np.asarray(leaf).reshape(num_seeds, C, *leaf.shape[1:]),
        result.state.params["model"],
    )
    train.save_artifact(directory, params)
    return Trained(model, params, result.history)
