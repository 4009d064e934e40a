"""How well do layers of one size predict English? (Figs. 26 and 27)

Small language models of two layers, compared at equal parameters and equal tokens.

Dimension key: S seeds, N rows, B rows in a batch, T positions, P pages, X sixteenths.
"""

import functools
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import systems
from experiments.mesa_optimization.paper import paper
from ico import data, lab, tasks
from ico.models import MixerKind, TokenTransformer
from ico.types import Sequence

_HYBRID = "softmax, mesa"
_EVERY = 10  # one text in this many is held out


def corpus(text: str) -> tuple[list[str], list[str]]:
    """Texts to train on and texts held out.

    Raises:
      InputError: the text is not on this machine.
    """
    try:
        texts = {"python_docs": data.python_docs, "pydoc_topics": data.pydoc_topics}[text]()
    except FileNotFoundError as error:
        mend = f"{error}; or take --text pydoc_topics, which is short"
        raise lab.InputError("text", mend) from error
    texts = list(dict.fromkeys(texts))  # topics of pydoc stand there under several names
    held = texts[::_EVERY]
    return [one for i, one in enumerate(texts) if i % _EVERY], held


def by_page(losses_SNT, page_N) -> dict[str, np.ndarray]:
    """Summed losses and numbers of tokens of every page, [S, P] each: what is resampled."""
    pages = np.unique(page_N)
    sums = [losses_SNT[:, page_N == page].sum((1, 2)) for page in pages]
    counts = [float(losses_SNT[0, page_N == page].size) for page in pages]
    return {"nats": np.stack(sums, 1), "tokens": np.tile(counts, (len(losses_SNT), 1))}


def sixteenths(values_T: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The middles of sixteenths of a row, and the means over each, [X]; the rest is dropped."""
    width = max(len(values_T) // 16, 1)
    count = len(values_T) // width
    means_X = values_T[: count * width].reshape(count, width).mean(1)
    return width * (np.arange(count) + 0.5), means_X


def _draw(key, pool_NT, batch_size: int) -> Sequence:
    chosen = jax.random.randint(key, (batch_size,), 0, len(pool_NT))
    rows_BT = pool_NT[chosen].astype(jnp.int32)
    return Sequence(rows_BT[:, :-1], rows_BT[:, 1:])


def _loss(model, params, batch, *pool):
    """The mean negative log-likelihood of a token."""
    return jnp.mean(token_losses(model, params, batch)), {}


@functools.partial(jax.jit, static_argnums=0)
def token_losses(model, params, batch) -> jax.Array:
    """Negative log-likelihoods of the tokens after each, [B, T], nats."""
    return tasks.token_losses(model.apply({"params": params}, batch.inputs), batch.targets)


def _kinds(name: str) -> tuple[MixerKind, MixerKind]:
    """The two layers of a language model by its name: "gated delta", "softmax, mesa"."""
    first, *rest = name.replace("gated ", "gated_").split(", ")
    return cast(tuple[MixerKind, MixerKind], (first, rest[0] if rest else first))


@paper.study("How well do layers of one size predict English?")
def language(run):
    """Held-out negative log-likelihood of every model, paired over pages and seeds."""
    config, length = run.config, run.config.text_length
    texts, held_texts = corpus(config.text)
    tokenizer = data.train_bpe(texts, config.vocab_size)
    cut = functools.partial(
        data.text_rows,
        encode=lambda text: data.tokens([text], tokenizer).tolist(),
        length=length + 1,
        overlap=1,  # so that every token but the first is predicted once
    )
    rows = cut(texts, joined=True).ids
    held, page = (array[: config.held_out_rows] for array in cut(held_texts))
    recipe = systems.recipe(
        config.text_steps, config.text_learning_rate, weight_decay=0.1, decay_matrices_alone=True
    )
    curves: dict[str, np.ndarray] = {}
    for name in config.text_models:
        model = TokenTransformer(
            config.vocab_size,
            _kinds(name),
            dim=config.text_dim,
            num_heads=4,
            head_dim=config.text_dim // 4,
            position_dim=32,
        )
        trained = lab.train(
            run,
            f"language-{name.replace(', ', '-').replace(' ', '_')}",
            model,
            functools.partial(_draw, batch_size=config.text_batch),
            recipe,
            loss=functools.partial(_loss, model),
            given=jnp.asarray(rows),
            stream="language",
        )
        parts = [
            trained.by_seed(token_losses, Sequence(some[:, :-1], some[:, 1:]))
            for some in np.split(held, range(32, len(held), 32))
        ]
        losses_SNT = np.concatenate(parts, axis=1)
        axes = {"model": name, "parameters": trained.num_parameters}
        yield lab.record(**axes, **by_page(losses_SNT, page))
        places_X, nats_X = sixteenths(losses_SNT.mean((0, 1)))
        curves[name] = nats_X
        gap_X = nats_X - curves[config.text_models[0]]
        yield lab.record("curve", model=name, position=places_X, gap=gap_X)
    tokens = config.text_steps * config.text_batch * length
    run.note(
        f"{sum(map(len, texts))} characters to train on ({config.text}), {len(rows)} rows of "
        f"{length} tokens; {tokens} tokens seen, {tokens / rows[:, 1:].size:.1f} times the text. "
        f"{len(held)} rows held out, of {len(np.unique(page))} pages, which are what intervals "
        "resample. Byte pairs are those of the training part."
    )


def gap(model: str):
    """A model's nats a token less the hybrid's, paired over pages and seeds."""
    return lab.difference("nats", over="tokens", model=(model, _HYBRID))


claim = functools.partial(
    language.claim, source="Figs. 26 and 27", unit="nats", band=(0.0, None), kind="core"
)
claim(
    "hybrid",
    "Softmax and a mesa layer predict English better than two layers of linear attention of "
    "equal size (nats a token, less)",
    of=gap("linear"),
)
claim(
    "hybrid_linear",
    "And better than softmax and linear attention: what the mesa layer adds (nats a token, less)",
    of=gap("softmax, linear"),
)
language.table("held out", lab.rows("nats", over="tokens", name="nats a token"))


@language.table("paired differences")
def differences(records):
    """Every model's nats a token less the hybrid's: above zero the hybrid is better."""
    rows = []
    for name in records[""].axis("model"):
        if name != _HYBRID:
            found = gap(name)(records)
            low, high = found.ci95 or (None, None)
            row = {f"less {_HYBRID}": name, "nats a token": found.value}
            rows.append(row | {"95% low": low, "95% high": high})
    return rows


language.note(
    "Two layers without MLPs, as in the paper's appendix G; its feature map DPFP and its sizes are "
    "not here. Keys and queries go through a convolution of width four in all models."
)
_LABELS = {"xlabel": "position in the row", "ylabel": "nats a token, less the first model's"}
language.figure(
    lab.lines("position", "gap", record="curve", color="model", **_LABELS),
    "Negative log-likelihood of held-out text less that of the first model, by the position in the "
    "row, means over sixteenths.",
    name="language",
)
