"""Log-probabilities of texts, compiled once for each bucket of lengths.

Dimension key: B sequences, T tokens, C scored tokens at most, D width, V words, N texts.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ico.lm._config import DecoderConfig
from ico.lm._decoder import Ids, Params, check_ids, hidden_states, logits

_SMALLEST = 16  # tokens in the smallest bucket
_TOKENS_PER_BATCH = 2048
NOT_FINITE = (
    "the model's outputs are not finite; look for NaN and infinities in its parameters, or give "
    "them a wider type"
)


def token_log_probs(
    params: Params,
    config: DecoderConfig,
    ids: Ids,
    *,
    segment_ids: Ids | None = None,
    remat: bool = False,
) -> Float[Array, "B T-1"]:
    """log P(ids[:, t + 1] | ids[:, :t + 1]) for every t but the last, in nats; differentiable.

    The log-softmax over the vocabulary is not stored: the forward pass reduces it to two numbers
    per token, and the backward pass recomputes it.

    Args:
      params, config: the model.
      ids: token ids. Under jit, where they cannot be checked, one outside the vocabulary gives NaN.
      segment_ids: of packed sequences. Each is scored as if it stood alone: its tokens attend to
        each other only, positions begin at 0, and its first token, which nothing predicts, has 0.
      remat: recompute the activations of a layer in the backward pass instead of storing them.

    Raises:
      ValueError: an id outside the vocabulary.
    """
    hidden, _ = hidden_states(params, config, ids, segment_ids=segment_ids, remat=remat)

    @jax.checkpoint
    def head(params, hidden, targets):
        scores = logits(params, config, hidden)
        targets = jnp.where(targets < 0, config.vocab_size, targets)  # NaN, not another token
        picked = jnp.take_along_axis(scores, targets[..., None], axis=-1)[..., 0]
        return picked - jax.nn.logsumexp(scores, axis=-1)

    top = {name: value for name, value in params.items() if name in ("embedding", "head")}
    log_probs = head(top, hidden[:, :-1], ids[:, 1:])
    return log_probs if segment_ids is None else jnp.where(_predicted(segment_ids), log_probs, 0)


def _predicted(segment_ids):
    """Whether tokens 1, 2, ... of a row continue the segment of the token before [B, T - 1]."""
    return segment_ids[:, 1:] == segment_ids[:, :-1]


def next_token_loss(
    params: Params,
    config: DecoderConfig,
    ids: Ids,
    mask: Array | np.ndarray,
    *,
    segment_ids: Ids | None = None,
    remat: bool = False,
) -> Float[Array, ""]:
    """Mean of -log P(ids[:, t + 1] | ids[:, :t + 1]) over the tokens with mask[:, t + 1] set.

    Args:
      params, config: the model.
      ids: token ids.
      mask: [B, T], 1 for tokens that are targets; the first token of a row or a segment, which
        nothing predicts, is ignored.
      segment_ids, remat: as for `token_log_probs`.

    Returns:
      The loss in nats per token; 0 if there are no targets.

    Raises:
      ValueError: an id outside the vocabulary.
    """
    weights = mask[:, 1:].astype(jnp.float32)
    if segment_ids is not None:
        weights = weights * _predicted(segment_ids)
    log_probs = token_log_probs(params, config, ids, segment_ids=segment_ids, remat=remat)
    return -jnp.sum(log_probs * weights) / jnp.maximum(weights.sum(), 1)


def pad(sequences: list[list[int]], length: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Lists of token ids as one array [B, T], padded with zeros on the right, and lengths [B]."""
    lengths = np.array([len(sequence) for sequence in sequences], np.int32)
    ids = np.zeros((len(sequences), length or int(lengths.max(initial=1))), np.int32)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids, lengths


def bucket(size: int, smallest: int = _SMALLEST) -> int:
    """The next power of two, or three quarters of one, so that at most a third is padding."""
    while True:
        for candidate in (smallest, smallest + smallest // 2):
            if size <= candidate:
                return candidate
        smallest *= 2


class Scores(NamedTuple):
    """Scores of N continuations.

    Fields:
      log_prob: [N], log P(continuation | prefix), summed over its tokens, in nats.
      top: [N], the most probable token after the prefix.
    """

    log_prob: Float[np.ndarray, "N"]
    top: Int[np.ndarray, "N"]


@functools.partial(jax.jit, static_argnums=(1, 5))
def _score_rows(params, config, ids_BT, start_B, length_B, width):
    """Log-probability [B] of the tokens from start to length, and the top token at start [B].

    At most `width` tokens are scored. The head, a fifth of the work of a small model, is applied
    only at the positions that predict them.
    """
    hidden_BTD, _ = hidden_states(params, config, ids_BT)
    places_BC = start_B[:, None] - 1 + jnp.arange(width)[None]
    inside_BC = jnp.clip(places_BC, 0, ids_BT.shape[1] - 2)
    hidden_BCD = jnp.take_along_axis(hidden_BTD, inside_BC[..., None], axis=1)
    scores_BCV = logits(params, config, hidden_BCD)
    targets_BC = jnp.take_along_axis(ids_BT, inside_BC + 1, axis=1)
    picked_BC = jnp.take_along_axis(scores_BCV, targets_BC[..., None], axis=-1)[..., 0]
    picked_BC -= jax.nn.logsumexp(scores_BCV, axis=-1)
    wanted_BC = places_BC + 1 < length_B[:, None]
    return jnp.sum(jnp.where(wanted_BC, picked_BC, 0.0), axis=1), scores_BCV[:, 0].argmax(-1)


def score_continuations(
    params: Params,
    config: DecoderConfig,
    prefixes: list[list[int]],
    continuations: list[list[int]],
) -> Scores:
    """Scores continuations of prefixes, in batches of similar lengths.

    Compiled once for each bucket of lengths, not for each length.

    Args:
      params, config: the model.
      prefixes, continuations: N lists of token ids each, none empty.

    Raises:
      ValueError: lists of unequal length, an empty prefix or continuation, a pair too long for the
        model, a token outside the vocabulary, or outputs that are not finite.
    """
    if len(prefixes) != len(continuations):
        raise ValueError(f"{len(prefixes)} prefixes but {len(continuations)} continuations")
    for index, (prefix, continuation) in enumerate(zip(prefixes, continuations, strict=True)):
        if not prefix or not continuation:
            what = "continuation" if prefix else "prefix"
            raise ValueError(f"{what} {index} has no tokens, so there is nothing to score")
        if len(prefix) + len(continuation) > config.context_length:
            raise ValueError(f"pair {index} is longer than {config.context_length} tokens")
        check_ids(prefix + continuation, config, f"ids of pair {index}")
    out = Scores(np.zeros(len(prefixes)), np.zeros(len(prefixes), np.int64))
    groups: dict[tuple[int, int], list[int]] = {}
    for index, (prefix, continuation) in enumerate(zip(prefixes, continuations, strict=True)):
        length = min(bucket(len(prefix) + len(continuation)), config.context_length)
        width = min(bucket(len(continuation), 4), length)
        groups.setdefault((length, width), []).append(index)
    for (length, width), group in groups.items():
        rows = max(1, min(64, _TOKENS_PER_BATCH // length))
        for first in range(0, len(group), rows):
            chosen = group[first : first + rows]
            ids, lengths = pad([prefixes[i] + continuations[i] for i in chosen], length)
            starts = np.array([len(prefixes[i]) for i in chosen], np.int32)
            # A short last batch is padded to a power of two, so that few sizes are compiled.
            missing = min(rows, bucket(len(chosen), 1)) - len(chosen)
            ids, lengths, starts = (
                np.concatenate([a, np.zeros((missing, *a.shape[1:]), a.dtype)])
                for a in (ids, lengths, starts)
            )
            found = _score_rows(params, config, ids, starts, lengths, width)
            for whole, part in zip(out, found, strict=True):
                whole[chosen] = np.asarray(part)[: len(chosen)]
    if not np.isfinite(out.log_prob).all():
        raise ValueError(NOT_FINITE)
    return out
