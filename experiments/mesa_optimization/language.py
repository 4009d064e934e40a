"""Small language models on English: layers compared at equal parameters and equal tokens.

Dimension key: S seeds, N rows, B rows in a batch, T positions.
"""

import functools
import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.launch import InputError
from experiments.mesa_optimization import training as tr
from ico import data
from ico.models import MixerKind, TokenTransformer
from ico.report import StudyResult, interval, measured, ratio, unjudged

MODELS: dict[str, tuple[MixerKind, ...]] = {
    "linear": ("linear", "linear"),
    "gated linear": ("gated_linear", "gated_linear"),
    "delta": ("delta", "delta"),
    "gated delta": ("gated_delta", "gated_delta"),
    "mesa": ("mesa", "mesa"),
    "mesa_cg": ("mesa_cg", "mesa_cg"),
    "softmax": ("softmax", "softmax"),
    "softmax, linear": ("softmax", "linear"),
    "softmax, mesa": ("softmax", "mesa"),
}
_EVERY = 10  # one text in so many is held out


def corpus(config) -> tuple[list[str], list[str]]:
    """Texts to train on and texts held out.

    Raises:
      InputError: the text is not on this machine.
    """
    try:
        texts = {"python_docs": data.python_docs, "pydoc_topics": data.pydoc_topics}[config.text]()
    except FileNotFoundError as error:
        raise InputError("text", f"{error}; or take --text pydoc_topics, which is short") from error
    texts = list(dict.fromkeys(texts))  # topics of pydoc stand there under several names
    return ([t for i, t in enumerate(texts) if i % _EVERY],
            [t for i, t in enumerate(texts) if i % _EVERY == 0])  # fmt: skip


def pages_of(texts, tokenizer, length: int, most: int):
    """Rows of length + 1 tokens inside one text each, at most so many; and the text of each.

    Returns:
      [N, length + 1] and [N]; what is left at the end of a text is dropped, and texts too short.
    """
    rows, page = [], []
    for number, text in enumerate(texts):
        ids = data.tokens([text], tokenizer)
        count = (len(ids) - 1) // length
        rows += [ids[i * length : i * length + length + 1] for i in range(count)]
        page += [number] * count
    return np.stack(rows[:most]), np.array(page[:most])


def by_page(losses_SNT, page_N) -> tuple[np.ndarray, np.ndarray]:
    """Summed losses and numbers of tokens of every page, [S, pages] each: what is resampled."""
    pages = np.unique(page_N)
    sums = [losses_SNT[:, page_N == page].sum((1, 2)) for page in pages]
    counts = [losses_SNT[0, page_N == page].size for page in pages]
    return np.stack(sums, 1), np.broadcast_to(
        np.array(counts, float), (len(losses_SNT), len(pages))
    )


def rows_of(texts, tokenizer, length: int):
    """Rows of length + 1 tokens cut one behind the other, [N, length + 1]."""
    ids = data.tokens(texts, tokenizer)
    count = (len(ids) - 1) // length
    return np.stack([ids[i * length : i * length + length + 1] for i in range(count)])


@functools.lru_cache(maxsize=16)
def loss_of(model):
    """The mean negative log-likelihood of a token."""

    def loss(params, rows):
        return jnp.mean(token_losses(model, params, rows)), {}

    return loss


def token_losses(model, params, rows):
    """Negative log-likelihoods of the tokens after each, [B, T], nats."""
    logits = model.apply({"params": params}, rows[:, :-1])
    log_p = jax.nn.log_softmax(logits)
    return -jnp.take_along_axis(log_p, rows[:, 1:, None], axis=-1)[..., 0]


_token_losses = jax.jit(token_losses, static_argnums=0)


def language(context) -> StudyResult:
    """Held-out negative log-likelihood of every model, paired over pages and seeds."""
    config = context.config
    train_texts, held_texts = corpus(config)
    tokenizer = data.train_bpe(train_texts, config.vocab_size)
    rows = rows_of(train_texts, tokenizer, config.text_length)
    held, page = pages_of(held_texts, tokenizer, config.text_length, config.held_out_rows)
    # A constant of the compiled sampler: kept small.
    pool = jnp.asarray(rows.astype(np.int16 if config.vocab_size < 2**15 else np.int32))
    digest = hashlib.sha256(rows.tobytes()).hexdigest()[:16]
    recipe = tr.TokenRecipe(config.text_steps, config.text_batch, config.text_learning_rate, 0.1)

    def sampler(key):
        chosen = jax.random.randint(key, (recipe.batch_size,), 0, len(pool))
        return pool[chosen].astype(jnp.int32)

    found, table, arrays = {}, [], {}
    for name in config.text_models:
        model: Any = TokenTransformer(
            config.vocab_size, MODELS[name], dim=config.text_dim, num_heads=4,
            head_dim=config.text_dim // 4, position_dim=32,
        )  # fmt: skip

        def init(key, model=model):
            return model.init(key, jnp.zeros((1, 16), int))["params"]

        trained = tr.train_seeds(
            context, f"language-{name.replace(', ', '-').replace(' ', '_')}", model, init,
            loss_of(model), sampler, recipe, {"model": tr.spec_of(model), "text": digest},
            stream="language",
        )  # fmt: skip
        losses = []
        for seed in range(config.num_seeds):
            params = tr.one(trained, seed)
            parts = [np.asarray(_token_losses(model, params, jnp.asarray(held[i : i + 32])))
                     for i in range(0, len(held), 32)]  # fmt: skip
            losses.append(np.concatenate(parts))
        losses = np.stack(losses)  # [S, N, T]
        found[name] = by_page(losses, page)
        value, (low, high) = interval(*found[name], statistic=ratio)
        table.append({"model": name, "parameters": tr.num_parameters(trained),
                      "nats a token": value, "95% low": low, "95% high": high})  # fmt: skip
        arrays[name] = losses.mean((0, 1))
    gaps = _gaps(found)
    tokens = recipe.num_steps * recipe.batch_size * config.text_length
    notes = [
        f"{sum(map(len, train_texts))} characters to train on ({config.text}), {len(rows)} rows "
        f"of {config.text_length} tokens; {tokens} tokens seen, "
        f"{tokens / rows[:, 1:].size:.1f} times the text. {len(held)} rows held out, of "
        f"{len(np.unique(page))} pages, which are what intervals resample. Byte pairs are "
        "those of the training part.",
        "Two layers without MLPs, as in the paper's appendix G; its feature map DPFP and its sizes "
        "are not here. Keys and queries go through a convolution of width four in all models.",
    ]
    return StudyResult(
        _claims(found), {"held out": table, "paired differences": gaps}, arrays, notes
    )


def _claims(found):
    claims = []
    for claim, other in (
        ("language.hybrid", "linear"),
        ("language.hybrid_linear", "softmax, linear"),
    ):
        if {"softmax, mesa", other} <= set(found):
            (a, tokens), (b, _) = found[other], found["softmax, mesa"]
            claims.append(measured(claim, a, b, tokens, statistic=_gap))
        else:
            claims.append(unjudged(claim, "a model that it is about was not trained"))
    return claims


def _gap(a, b, tokens):
    return (a - b) / tokens


def _gaps(found) -> list[dict]:
    """Paired differences of all to "softmax, mesa" (or the last): above zero it is better."""
    first = "softmax, mesa" if "softmax, mesa" in found else list(found)[-1]
    rows = []
    for name, (sums, tokens) in found.items():
        if name != first:
            gap, (low, high) = interval(sums, found[first][0], tokens, statistic=_gap)
            rows.append({f"less {first}": name, "nats a token": gap, "95% low": low,
                         "95% high": high})  # fmt: skip
    return rows
