"""Sampling with cached keys and values.

Dimension key: B prompts, T prompt tokens, N new tokens, D width, V words, E tokens that end a text.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ico.lm._config import DecoderConfig
from ico.lm._decoder import Cache, Params, check_ids, hidden_states, logits
from ico.lm._score import NOT_FINITE, bucket, pad


def choose(logits_BV, key, temperature, top_p):
    """Chooses the next tokens: greedily at temperature 0, else by nucleus sampling.

    Args:
      logits_BV: logits.
      key: a random key.
      temperature: divides the logits.
      top_p: only the smallest set of tokens whose probabilities sum to this can be chosen
        (Holtzman et al. 2020, arXiv 1904.09751).

    Returns:
      Token ids [B].
    """
    scaled_BV = logits_BV / jnp.maximum(temperature, 1e-6)

    def from_all():
        return jax.random.categorical(key, scaled_BV, axis=-1).astype(jnp.int32)

    def from_top():
        order = jnp.argsort(-scaled_BV, axis=-1)
        probs = jax.nn.softmax(jnp.take_along_axis(scaled_BV, order, -1), axis=-1)
        # A token stays if those before it have less than top_p, so the first always stays.
        stays = jnp.cumsum(probs, axis=-1) - probs < top_p
        rank = jax.random.categorical(key, jnp.where(stays, jnp.log(probs), -jnp.inf), axis=-1)
        return jnp.take_along_axis(order, rank[:, None], -1)[:, 0].astype(jnp.int32)

    def greedy():
        return jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    # Sorting a large vocabulary is slow, so it is done only if tokens are excluded.
    way = jnp.where(temperature > 0, jnp.where(top_p < 1, 2, 1), 0)
    return jax.lax.switch(way, [greedy, from_all, from_top])


@functools.partial(jax.jit, static_argnums=(1, 4))
def _generate(params, config, ids_BT, lengths_B, num_tokens: int, key, temperature, top_p, eos_E):
    """New tokens [B, N], and whether all logits that they were chosen by are finite."""
    B, T = ids_BT.shape
    dtype = params["embedding"].dtype
    shape = (config.num_layers, B, T + num_tokens, config.num_kv_heads, config.head_dim)
    cache = Cache(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))
    # Padding's keys and values are overwritten before any token attends to them.
    hidden, cache = hidden_states(params, config, ids_BT, cache=cache)
    last_BD = jnp.take_along_axis(hidden, (lengths_B - 1)[:, None, None], axis=1)[:, 0]

    def step(carry, index):
        cache, last_BD, done_B, finite = carry
        scores = logits(params, config, last_BD)
        token_B = choose(scores, jax.random.fold_in(key, index), temperature, top_p)
        finite &= jnp.isfinite(scores).all()
        token_B = jnp.where(done_B, eos_E[0], token_B)
        done_B = done_B | (token_B[:, None] == eos_E[None]).any(axis=1)
        hidden, cache = hidden_states(
            params,
            config,
            jnp.maximum(token_B, 0)[:, None],
            positions=(lengths_B + index)[:, None],
            cache=cache,
        )
        return (cache, hidden[:, 0], done_B, finite), token_B

    start = (cache, last_BD, jnp.zeros(B, bool), jnp.bool(True))
    (_, _, _, finite), tokens_NB = jax.lax.scan(step, start, jnp.arange(num_tokens))
    return tokens_NB.T, finite


def generate_ids(
    params: Params,
    config: DecoderConfig,
    prompts: list[list[int]],
    *,
    max_tokens: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    eos_id: int | Sequence[int] | None = None,
) -> list[list[int]]:
    """Token ids that continue each prompt, up to an end-of-text token, which is left out.

    Compiled once for each number of prompts and of end tokens, bucket of lengths and `max_tokens`.

    Args:
      params, config: the model.
      prompts: token ids, at least one each.
      max_tokens: the longest continuation.
      temperature: 0 is greedy.
      top_p: sample from the smallest set of tokens whose probabilities sum to this.
      seed: of the random numbers.
      eos_id: the token, or the tokens, that end a text; None for none.

    Raises:
      ValueError: an empty prompt, an option out of range, more tokens than the model's context, a
        token outside the vocabulary, or outputs that are not finite.
    """
    if not prompts:
        return []
    if max_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
        raise ValueError("max_tokens must be >= 1, temperature >= 0 and top_p in (0, 1]")
    if not all(prompts):
        raise ValueError(f"prompt {[bool(p) for p in prompts].index(False)} has no tokens")
    for index, prompt in enumerate(prompts):
        check_ids(prompt, config, f"ids of prompt {index}")
    ends = np.atleast_1d(np.asarray([] if eos_id is None else eos_id, np.int32))
    check_ids(ends, config, "eos_id")
    longest = max(map(len, prompts))
    if longest + max_tokens > config.context_length:
        raise ValueError(
            f"{longest} + {max_tokens} tokens are more than the model's {config.context_length}"
        )
    length = min(bucket(longest), config.context_length - max_tokens)
    ids, lengths = pad(prompts, length)
    tokens, finite = _generate(
        params,
        config,
        ids,
        lengths,
        max_tokens,
        jax.random.key(seed),
        np.float32(temperature),
        np.float32(top_p),
        ends if ends.size else np.array([-1], np.int32),
    )
    if not finite:
        raise ValueError(NOT_FINITE)
    out = []
    for row in np.asarray(tokens):
        found = np.flatnonzero(np.isin(row, ends))
        out.append(row[: found[0] if found.size else None].tolist())
    return out
