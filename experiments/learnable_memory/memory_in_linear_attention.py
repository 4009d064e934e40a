"""What is memory in linear and mesa attention?

For linear attention pairs of keys and values before a sequence are a state to start from, exactly;
for the mesa layer they are data seen before. Sequences here are linear regressions whose weights
scatter around a common matrix W0, so the best learner (the posterior mean of a Gaussian prior)
knows W0: the mesa layer is that learner once its memory holds D cells that say so.

Dimension key: S seeds, T sequences, B sequences, N pairs, D inputs, M memory tokens.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learnable_memory.paper import paper
from ico import lab
from ico.layers import linear_attention, mesa

_D, _N, _SPREAD, _NOISE = 4, 6, 0.5, 0.3  # inputs, pairs, of the weights around W0, of the targets
BAYES, BY_HAND, LEARNED, WITHOUT = "posterior mean", "by hand", "learned", "none"
_LAYERS = ("linear", "mesa")


def _tasks(key, count):
    """Pairs x [B, N, D], y [B, N], a query [B, D] and its answer without noise [B]."""
    keys = jax.random.split(key, 4)
    mean = _mean()
    w = mean[None] + _SPREAD * jax.random.normal(keys[0], (count, _D))
    x = jax.random.normal(keys[1], (count, _N, _D))
    y = jnp.einsum("bnd,bd->bn", x, w) + _NOISE * jax.random.normal(keys[2], (count, _N))
    query = jax.random.normal(keys[3], (count, _D))
    return x, y, query, jnp.sum(query * w, -1)


def _mean():
    """W0, the same for all."""
    return jnp.asarray(np.random.default_rng(0).normal(size=_D), jnp.float32) * 1.5


def _posterior(x, y, query):
    """The posterior mean's answers."""
    ridge = (_NOISE / _SPREAD) ** 2
    gram = jnp.einsum("bnd,bne->bde", x, x) + ridge * jnp.eye(_D)[None]
    seen = jnp.einsum("bn,bnd->bd", y, x) + ridge * _mean()[None]
    return jnp.sum(query * jnp.linalg.solve(gram, seen[..., None])[..., 0], -1)


def _answer(params, x, y, query, *, layer):
    """Of one head of attention over memory, pairs and the query, whose own value is not used."""
    B = len(x)
    keys, values = params["keys"], params["values"]  # [M, D], [M]
    k = jnp.concatenate([jnp.broadcast_to(keys[None], (B, *keys.shape)), x], 1)
    v = jnp.concatenate([jnp.broadcast_to(values[None], (B, len(values))), y], 1)
    q = jnp.broadcast_to(query[:, None], k.shape)
    q, k, v = q[:, :, None], k[:, :, None], v[:, :, None, None]
    if layer == "linear":
        found: Any = linear_attention(params["scale"] * q, k, v)
    else:
        found: Any = mesa(q, k, v, lam=jnp.exp(params["log_lam"])[None])
    return found[:, -1, 0, 0]


def _start(key, cells):
    return {
        "keys": 0.1 * jax.random.normal(key, (cells, _D)),
        "values": jnp.zeros(cells),
        "scale": jnp.asarray(1 / _N),
        "log_lam": jnp.asarray(0.0),
    }


def _by_hand():
    """Memory that makes the mesa layer the posterior mean: its regulariser has half the prior's
    precision, D pairs have the other half, and these alone say where the weights are.
    """
    precision = (_NOISE / _SPREAD) ** 2
    size = np.sqrt(precision / 2)
    return {
        "keys": size * jnp.eye(_D),
        "values": precision / size * _mean(),
        "scale": jnp.asarray(1.0),
        "log_lam": jnp.log(2 / precision),
    }


def _loss(params, batch, *, layer, cells):
    x, y, query, wanted = batch
    if not cells:
        params = params | {"keys": params["keys"][:0], "values": params["values"][:0]}
    return jnp.mean((_answer(params, x, y, query, layer=layer) - wanted) ** 2) / 2, {}


@paper.study("What is memory in linear and mesa attention?")
def memory_in_linear_attention(run):
    """Losses of both layers without memory, with D learned cells, and with what theory says."""
    count = run.config.sequences
    x, y, query, wanted = _tasks(run.key("test"), count)

    def scored(answers):
        return (np.asarray(answers) - np.asarray(wanted)) ** 2 / 2

    best = _posterior(x, y, query)
    yield lab.record(layer="none", memory=BAYES, loss=scored(best))
    by_hand = jax.jit(functools.partial(_answer, layer="mesa"))(_by_hand(), x, y, query)
    yield lab.record(layer="mesa", memory=BY_HAND, loss=scored(by_hand))
    yield lab.record("error", of="mesa", gap=np.abs(by_hand - best).max() / np.abs(best).max())
    yield lab.record("error", of="linear", gap=_gap_of_states(run))
    steps = run.config.sequences // 2
    recipe = lab.Recipe(steps, 1e-2, schedule="cosine", warmup=0.05, steps_per_call=min(100, steps))
    for layer in _LAYERS:
        for memory, cells in ((WITHOUT, 0), (LEARNED, _D)):
            found = lab.train(
                run,
                f"{layer}-{memory}",
                None,
                functools.partial(_sample, count=64),
                recipe,
                loss=functools.partial(_loss, layer=layer, cells=cells),
                init=functools.partial(_start, cells=_D),
                stream=layer,
            )
            kept = found.params
            if not cells:
                kept = kept | {"keys": kept["keys"][:, :0], "values": kept["values"][:, :0]}
            answers = jax.jit(
                jax.vmap(functools.partial(_answer, layer=layer), in_axes=(0, None, None, None))
            )(kept, x, y, query)
            yield lab.record(layer=layer, memory=memory, loss=scored(answers))


def _sample(key, *, count):
    return _tasks(key, count)


def _gap_of_states(run):
    """Memory before the sequence, and its sum of products as the state to start from."""
    keys = jax.random.split(run.key("state"), 5)
    shapes = [(2, 9, 1, _D)] * 2 + [(2, 9, 1, 3)] + [(2, 5, 1, _D), (2, 5, 1, 3)]
    q, k, v, mk, mv = (jax.random.normal(a, s) for a, s in zip(keys, shapes, strict=True))
    joined = (jnp.concatenate(pair, 1) for pair in ((mk, q), (mk, k), (mv, v)))
    whole: Any = linear_attention(*joined)
    state = jnp.einsum("bmhv,bmhd->bhvd", mv, mk)
    other: Any = linear_attention(q, k, v, initial_state=state)
    gap = jnp.abs(whole[:, 5:] - other).max() / jnp.abs(other).max()
    return np.asarray(gap)


memory_in_linear_attention.claim(
    "linear_state",
    "Memory in linear attention is a state to start from",
    "identity",
    kind="ours",
    unit="relative error",
    band=(None, 1e-5),
    of=lab.exact("gap", record="error", of="linear"),
)
memory_in_linear_attention.claim(
    "mesa_prior",
    "Memory in the mesa layer is a prior: set by hand, its answers are the posterior mean's",
    "identity",
    kind="ours",
    unit="relative error",
    band=(None, 1e-4),
    of=lab.exact("gap", record="error", of="mesa"),
)
memory_in_linear_attention.claim(
    "learned",
    "As many learned cells as inputs bring the mesa layer within 5% of the posterior mean's loss",
    "ours",
    kind="ours",
    unit="ratio",
    band=(None, 1.05),
    of=lambda records: lab.measured(
        records[""].one(layer="mesa", memory=LEARNED)["loss"],
        records[""].one(memory=BAYES)["loss"][None],
        statistic=lambda a, b: a / b,
    ),
)
memory_in_linear_attention.claim(
    "without",
    "Without memory its loss is larger",
    "control",
    kind="ours",
    unit="ratio",
    band=(1.0, None),
    of=lab.ratio("loss", layer="mesa", memory=(WITHOUT, LEARNED)),
)
memory_in_linear_attention.table("loss", lab.rows("loss"))
memory_in_linear_attention.figure(
    lab.bars("loss", x="layer", color="memory", ylabel="half squared error", xlabel=""),
    "Loss on regressions whose weights scatter around one matrix, with 95% intervals.",
)
