"""A language model that learns a world, and the thresholds it must pass before facts are injected.

Dimension key: S seeds, N prompts, W words before the value, V words of the vocabulary.
"""

import functools
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ico import train
from ico.lm import DecoderConfig, hidden_states, init_params, logits, next_token_loss
from ico.worlds._world import (
    KIND_TEMPLATES,
    NUM_HELD_OUT,
    PERSON_TEMPLATES,
    THEMES,
    World,
    WorldConfig,
    fill,
    language,
    make_world,
    sample_text,
)

PyTree = Any

# The least of each measurement of `knowledge` with which a model counts as knowing its world.
THRESHOLDS = {"kind_accuracy": 0.98, "kind_probability": 0.95, "person_accuracy": 0.90}


def world_decoder(config: WorldConfig) -> DecoderConfig:
    """The decoder of a world: the Llama family, its output head tied to the embedding."""
    head_dim = config.dim // config.num_heads
    return DecoderConfig(
        family="llama",
        vocab_size=len(language(config).words),
        dim=config.dim,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        num_kv_heads=config.num_heads,
        head_dim=head_dim,
        mlp_dim=config.mlp_dim,
        context_length=config.length,
        norm_eps=1e-5,
        query_scale=head_dim**-0.5,
        frequencies=tuple((10_000.0 ** (-np.arange(0, head_dim, 2) / head_dim)).tolist()),
    )


def train_worlds(
    directory: str | Path, config: WorldConfig, seeds: Sequence[int], *, progress: bool = True
):
    """Trains a model on each seed's world, all at once, or finds them trained.

    Args:
      directory: the folder of all artefacts; an unfinished training goes on from its checkpoint.
      config: of the worlds, the model and the training.
      seeds: distinct; seed s has the world `make_world(config, s)`.
      progress: whether to show the bar.

    Returns:
      Parameters of the decoder `world_decoder(config)`, NumPy arrays with a leading seed axis.

    Raises:
      ValueError: no seeds, or one twice.
      NonFiniteLoss, Interrupted, CheckpointError: as `train.fit`.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be distinct and at least one, not {seeds}")
    texts = {"kinds": KIND_TEMPLATES, "persons": PERSON_TEMPLATES}
    spec = {"config": config, "seeds": seeds, "templates": texts}
    make = functools.partial(_fit, config, seeds, progress)
    return train.kept(directory, "world", spec, make)


def _fit(config: WorldConfig, seeds: Sequence[int], progress: bool, folder: Path):
    decoder, optimizer = world_decoder(config), _optimizer(config)
    tables = [make_world(config, seed).tables for seed in seeds]

    def loss(params, batch, _tables):
        return next_token_loss(params, decoder, batch.ids, batch.mask), {}

    keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
    result = train.fit(
        train.make_step(loss, optimizer),
        train.init_state(functools.partial(_init_world_params, decoder), optimizer, keys),
        lambda key, tables: sample_text(key, tables, config),
        train.LoopConfig(config.num_steps, steps_per_call=100, checkpoint_every=400),
        given=jax.tree.map(lambda *leaves: jnp.stack(leaves), *tables),
        given_axes=0,
        directory=folder,
        label=f"world x{len(seeds)}",
        progress=progress,
        mesh=train.make_mesh({"data": 1}),
    )
    return result.params


def _init_world_params(decoder: DecoderConfig, key):
    """Matrices of scale 0.05, the embedding of scale 0.02.

    Persons are learned after a plateau of random length. In runs of half the length on six seeds
    this scale left it sooner than 0.02 throughout; in full runs one seed in six or seven missed a
    threshold with either, so the scale does not cure this.
    """
    params = init_params(decoder, key, 0.05)
    return {**params, "embedding": 0.4 * params["embedding"]}


def _optimizer(config: WorldConfig) -> optax.GradientTransformation:
    rate = optax.warmup_cosine_decay_schedule(
        0.0, config.learning_rate, config.warmup_steps, config.num_steps, config.end_rate
    )
    return optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate, b2=0.99, weight_decay=0.1))


@functools.partial(jax.jit, static_argnums=1)
def next_word_log_probs(
    params, config: DecoderConfig, prefixes: Int[Array | np.ndarray, "N W"]
) -> Float[Array, "N V"]:
    """log P(word | prefix) over the vocabulary, for prefixes of equal length; in nats."""
    hidden_NWD, _ = hidden_states(params, config, prefixes)
    return jax.nn.log_softmax(logits(params, config, hidden_NWD[:, -1]))


def knowledge(params, world: World) -> dict[str, float]:
    """How well a model knows its world, asked in the held-out templates.

    Args:
      params: of one seed.
      world: that it was trained on.

    Returns:
      kind_accuracy, person_accuracy: shares of facts of which the most probable word of the whole
      vocabulary is the true value. kind_probability: the mean P(true value).
    """
    text, tables = language(world.config), jax.tree.map(np.asarray, world.tables)
    themes_K = np.arange(len(tables.kinds)) % len(THEMES)
    themes_M = np.tile(np.arange(len(THEMES)), len(tables.persons))
    # Kinds, then persons with each of their values; all of them in one template after another.
    subjects = np.concatenate([tables.kinds, np.repeat(tables.persons, len(THEMES))])
    values_N = np.tile(
        np.concatenate([tables.kind_values, tables.person_values.reshape(-1)]), NUM_HELD_OUT
    )
    is_kind_N = np.tile(np.arange(len(subjects)) < len(tables.kinds), NUM_HELD_OUT)
    frames = np.concatenate([text.kind_templates[themes_K], text.person_templates[themes_M]])
    prefixes = [fill(frames[:, -i], subjects) for i in range(NUM_HELD_OUT, 0, -1)]
    log_probs_NV = np.asarray(
        next_word_log_probs(params, world_decoder(world.config), np.concatenate(prefixes))
    )
    right_N = log_probs_NV.argmax(axis=1) == values_N
    log_probs_N = np.take_along_axis(log_probs_NV, values_N[:, None], axis=1)[:, 0]
    return {
        "kind_accuracy": float(right_N[is_kind_N].mean()),
        "kind_probability": float(np.exp(log_probs_N[is_kind_N]).mean()),
        "person_accuracy": float(right_N[~is_kind_N].mean()),
    }


def missed_thresholds(measured: Mapping[str, float]) -> dict[str, float]:
    """The measurements of `knowledge` that are below their `THRESHOLDS` (or NaN), by name.

    Only into a model that misses none should facts be injected: one that does not know its world
    has no knowledge for them to conflict with.
    """
    missed = [name for name, least in THRESHOLDS.items() if not measured[name] >= least]
    return {name: measured[name] for name in missed}


class LearnedWorlds(NamedTuple):
    """Worlds with models that know them, and what was measured of all that were tried."""

    worlds: tuple[World, ...]  # S
    params: PyTree  # [S, ...]
    tried: dict[int, dict[str, float]]  # seed -> `knowledge`

    def used(self, seed: int) -> bool:
        """Whether the world of this seed is among them."""
        return any(world.seed == seed for world in self.worlds)


def learned_worlds(
    directory: str | Path,
    config: WorldConfig,
    wanted: int,
    *,
    first_seed: int = 0,
    unlearned_too: bool = False,
    progress: bool = True,
) -> LearnedWorlds:
    """The first worlds, by seed, whose models pass all thresholds; trains them or finds them.

    Args:
      directory, config, progress: as for `train_worlds`.
      wanted: S.
      first_seed: seeds are tried from here on, at most 2 S of them.
      unlearned_too: for tests of code: takes the models that miss a threshold as well.

    Raises:
      ValueError: of 2 S worlds fewer than S were learned.
      ico.train.TrainingError: as `ico.train.fit`.
    """
    found, params, tried = [], [], {}
    seeds = iter(range(first_seed, first_seed + 2 * wanted))
    while len(found) < wanted and (batch := list(itertools.islice(seeds, wanted - len(found)))):
        trained = train_worlds(directory, config, batch, progress=progress)
        for i, seed in enumerate(batch):
            world, mine = make_world(config, seed), jax.tree.map(lambda leaf, i=i: leaf[i], trained)
            tried[seed] = knowledge(mine, world)
            if unlearned_too or not missed_thresholds(tried[seed]):
                found.append(world)
                params.append(mine)
    if len(found) < wanted:
        raise ValueError(f"{len(tried) - len(found)} of {len(tried)} worlds were not learned")
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
    return LearnedWorlds(tuple(found), stacked, tried)
