"""A language model that learns a world, and the gates it must pass before a fact is injected.

Dimension key: S seeds, N prompts, W words before the value, V words of the vocabulary.
"""

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from ico import train
from ico.lm import DecoderConfig, hidden_states, init_params, logits, next_token_loss
from ico.poison._world import (
    KIND_TEMPLATES,
    NUM_HELD_OUT,
    PERSON_TEMPLATES,
    THEMES,
    Tables,
    World,
    WorldConfig,
    fill,
    language,
    make_world,
    sample_text,
)

GATES = {"kind_accuracy": 0.98, "kind_probability": 0.95, "person_accuracy": 0.90}


def world_decoder(config: WorldConfig) -> DecoderConfig:
    """The decoder of a world: the Llama family, the head tied to the embedding."""
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
      Parameters of the decoder `world_decoder(config)` with a leading seed axis.

    Raises:
      ValueError: no seeds, or one twice.
      NonFiniteLoss, Interrupted, CheckpointError: as `train.fit`.
    """
    seeds = [int(seed) for seed in seeds]
    if not seeds or len(set(seeds)) != len(seeds):
        raise ValueError(f"seeds must be distinct and at least one, not {seeds}")
    texts = {"kinds": KIND_TEMPLATES, "persons": PERSON_TEMPLATES}
    spec = {"config": config, "seeds": seeds, "templates": texts}
    folder = train.artifact_directory(directory, "world", spec)
    if (params := train.load_artifact(folder)) is not None:
        return params
    decoder, optimizer = world_decoder(config), _optimizer(config)
    tables = [make_world(config, seed).tables for seed in seeds]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *tables)
    keys = jax.vmap(jax.random.key)(np.array(seeds, np.uint32))
    update = train.make_step(
        lambda params, batch: (next_token_loss(params, decoder, batch.ids, batch.mask), {}),
        optimizer,
    )

    def step(state, key):
        # `fit` hands a sampler nothing but a key, so the world is found by the state's own.
        return update(state, sample_text(key, _own_tables(state.key, keys, stacked), config))

    result = train.fit(
        step,
        train.init_state(functools.partial(_init_world_params, decoder), optimizer, keys),
        lambda key: key,
        train.LoopConfig(config.num_steps, steps_per_call=100, checkpoint_every=400),
        directory=folder,
        label=f"world x{len(seeds)}",
        progress=progress,
        mesh=train.make_mesh({"data": 1}),
    )
    train.save_artifact(folder, result.state.params)
    return result.state.params


def _init_world_params(decoder: DecoderConfig, key):
    """Matrices of scale 0.05, the embedding's 0.02.

    Persons are learned after a plateau of random length. In runs of half the length on six seeds
    this scale left it sooner than 0.02 throughout; in full runs one seed in six or seven failed its
    gate with either, so it is a choice and not a cure.
    """
    params = init_params(decoder, key, 0.05)
    return {**params, "embedding": 0.4 * params["embedding"]}


def _own_tables(key, keys_S, stacked: Tables) -> Tables:
    """Of tables stacked over seeds, those of the seed with this key."""
    same_SD = jax.random.key_data(key)[None] == jax.random.key_data(keys_S)
    return jax.tree.map(lambda leaf: leaf[jnp.argmax(same_SD.all(axis=1))], stacked)


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


def gates(params, world: World) -> dict[str, float]:
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
    # Kinds and then persons with each of their values, in one template and then in the other.
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


def check_gates(measured: Mapping[str, float]) -> None:
    """Refuses a model that does not know its world: nothing may be injected into it.

    Args:
      measured: as of `gates`.

    Raises:
      ValueError: a gate is below its bound in `GATES` (or not a number); names it and its value.
    """
    for name, least in GATES.items():
        if not measured[name] >= least:
            raise ValueError(
                f"the world was not learned: {name} is {measured[name]:.4f}, below {least}; "
                "train longer (num_steps) or with another seed"
            )
