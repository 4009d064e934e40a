"""Log-probabilities of texts, compiled once for each bucket of sizes.

Dimension key: B sequences, T tokens, V words, C tokens of a chunk.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ico.lm._config import DecoderConfig
from ico.lm._decoder import Ids, Params, hidden_states, logits

_SMALLEST = 16  # tokens in the smallest bucket
_TOKENS_A_BATCH = 2048


def token_log_probs(
    params: Params,
    config: DecoderConfig,
    ids: Ids,
    *,
    segment_ids: Ids | None = None,
    remat: bool = False,
) -> Float[Array, "B T-1"]:
    """log P(ids[:, t + 1] | ids[:, :t + 1]) for every t but the last, differentiable.

    The vocabulary's log-softmax is never kept: forward it is reduced to two numbers a token,
    backward it is computed again.
    """
    hidden, _ = hidden_states(params, config, ids, segment_ids=segment_ids, remat=remat)

    @jax.checkpoint
    def head(params, hidden, targets):
        scores = logits(params, config, hidden)
        picked = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        return picked - jax.nn.logsumexp(scores, axis=-1)

    top = {name: value for name, value in params.items() if name in ("embedding", "head")}
    return head(top, hidden[:, :-1], ids[:, 1:])


def next_token_loss(
    params: Params, config: DecoderConfig, ids: Ids, mask: Array | np.ndarray, **options
) -> Float[Array, ""]:
    """Mean of -log P(ids[:, t + 1] | ...) over the places where mask[:, t + 1] is set; in nats.

    Args:
      mask: [B, T], 1 where a token counts as a target. Column 0 never does.
      options: of `token_log_probs`.
    """
    weights = mask[:, 1:].astype(jnp.float32)
    total = -jnp.sum(token_log_probs(params, config, ids, **options) * weights)
    return total / jnp.maximum(weights.sum(), 1)


def pad(sequences: list[list[int]], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Token lists as ids [B, T] with zeros on the right, and lengths [B]."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    ids = np.zeros((len(sequences), length or int(lengths.max(initial=1))), np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths


def bucket(size: int, smallest: int = _SMALLEST) -> int:
    """The next power of two, or three quarters of one: at most a third is padding."""
    while True:
        for candidate in (smallest, smallest + smallest // 2):
            if size <= candidate:
                return candidate
        smallest *= 2


@functools.partial(jax.jit, static_argnums=1)
def _continuation_log_probs(params, config, ids_BT, start_B, length_B):
    """Sums of log-probabilities [B] of the tokens from start to length."""
    places = jnp.arange(1, ids_BT.shape[1])[None]
    wanted = (places >= start_B[:, None]) & (places < length_B[:, None])
    return jnp.sum(jnp.where(wanted, token_log_probs(params, config, ids_BT), 0.0), axis=1)


def continuation_log_probs(
    params: Params,
    config: DecoderConfig,
    prefixes: list[list[int]],
    continuations: list[list[int]],
) -> np.ndarray:
    """log P(continuation | prefix) [N] for lists of token ids, in batches of like lengths.

    Raises:
      ValueError: an empty prefix or continuation, or one pair too long for the model.
    """
    if len(prefixes) != len(continuations):
        raise ValueError(f"{len(prefixes)} prefixes but {len(continuations)} continuations")
    for index, (prefix, continuation) in enumerate(zip(prefixes, continuations, strict=True)):
        if not prefix or not continuation:
            what = "continuation" if prefix else "prefix"
            raise ValueError(f"{what} {index} has no tokens, so there is nothing to score")
        if len(prefix) + len(continuation) > config.context_length:
            raise ValueError(f"pair {index} is longer than {config.context_length} tokens")
    out = np.zeros(len(prefixes), np.float64)
    groups: dict[int, list[int]] = {}
    for index, (prefix, continuation) in enumerate(zip(prefixes, continuations, strict=True)):
        length = min(bucket(len(prefix) + len(continuation)), config.context_length)
        groups.setdefault(length, []).append(index)
    for length, group in groups.items():
        rows = max(1, min(64, _TOKENS_A_BATCH // length))
        for first in range(0, len(group), rows):
            chosen = group[first : first + rows]
            ids, lengths = pad([prefixes[i] + continuations[i] for i in chosen], length)
            starts = np.array([len(prefixes[i]) for i in chosen], np.int32)
            # A short last batch takes the next power of two, so sizes are few.
            missing = min(rows, bucket(len(chosen), 1)) - len(chosen)
            ids, lengths, starts = (
                np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)])
                for a in (ids, lengths, starts)
            )
            scores = _continuation_log_probs(params, config, ids, starts, lengths)
            out[chosen] = np.asarray(scores)[: len(chosen)]
    return out
