"""Small synthetic worlds whose facts and texts are known, and models that learn them.

    world = worlds.make_world(worlds.WorldConfig(), seed=0)
    batch = worlds.sample_text(jax.random.key(0), world.tables, world.config)
    params = worlds.train_worlds("checkpoints", world.config, seeds=[0, 1, 2])
    lies = worlds.facts(world, "conflict_kind", count=5, seed=0)

The facts are what a fact that is injected may contradict, and the text is what reminds of them.
"""

from ico.worlds._facts import FACT_TYPES, Facts, FactType, facts, theme_prefixes
from ico.worlds._model import (
    THRESHOLDS,
    LearnedWorlds,
    knowledge,
    learned_worlds,
    missed_thresholds,
    next_word_log_probs,
    train_worlds,
    world_decoder,
)
from ico.worlds._world import (
    PAPER_WORLD,
    SENTENCE_LENGTH,
    THEMES,
    Language,
    Tables,
    World,
    WorldConfig,
    decode,
    language,
    make_world,
    replay_rates,
    sample_text,
)

__all__ = [
    "FACT_TYPES",
    "PAPER_WORLD",
    "SENTENCE_LENGTH",
    "THEMES",
    "THRESHOLDS",
    "FactType",
    "Facts",
    "Language",
    "LearnedWorlds",
    "Tables",
    "World",
    "WorldConfig",
    "decode",
    "facts",
    "knowledge",
    "language",
    "learned_worlds",
    "make_world",
    "missed_thresholds",
    "next_word_log_probs",
    "replay_rates",
    "sample_text",
    "theme_prefixes",
    "train_worlds",
    "world_decoder",
]
