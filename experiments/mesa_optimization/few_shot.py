"""Regression from pairs by models that were trained on dynamics alone.

Dimension key: S seeds, B sequences, P pairs, D inputs, T positions.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import comparison as cmp
from experiments.mesa_optimization import training as tr
from experiments.mesa_optimization.explicit import least_squares_losses
from ico.report import StudyResult, measured, ratio

_NOISE = 0.01
_PREFIX = 20


class Pairs(NamedTuple):
    """x and y = W x + noise, [B, P, D] each, W a rotation of each sequence's own."""

    x: jax.Array
    y: jax.Array


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def draw(key, count: int, num_pairs: int, dim: int) -> Pairs:
    """Pairs as the paper draws them: x uniform in [-1, 1]."""
    keys = jax.random.split(key, 3)
    w = jax.random.orthogonal(keys[0], dim, shape=(count,))
    x = jax.random.uniform(keys[1], (count, num_pairs, dim), minval=-1, maxval=1)
    y = jnp.einsum("bij,bpj->bpi", w, x) + _NOISE * jax.random.normal(keys[2], x.shape)
    return Pairs(x, y)


def tokens_of(pairs: Pairs, eos=None, prefix=None):
    """x_1, y_1, (eos,) x_2 ...; and the places of the x, whose predictions are y.

    Args:
      pairs: to be put in a row.
      eos: a token [D] behind every pair.
      prefix: tokens [F, D] before all.
    """
    B, P, D = pairs.x.shape
    parts = [pairs.x, pairs.y]
    if eos is not None:
        parts.append(jnp.broadcast_to(eos[None, None], (B, P, D)))
    tokens = jnp.stack(parts, axis=2).reshape(B, P * len(parts), D)
    first = 0
    if prefix is not None:
        first = len(prefix)
        tokens = jnp.concatenate([jnp.broadcast_to(prefix[None], (B, *prefix.shape)), tokens], 1)
    return tokens, first + len(parts) * np.arange(P)


def losses_of(model, params, pairs: Pairs, eos=None, prefix=None):
    """1/2 |error|^2 of every pair, [B, P]."""
    tokens, places = tokens_of(pairs, eos, prefix)
    prediction = model.apply({"params": params}, tokens)[:, places]
    return 0.5 * jnp.sum((prediction - pairs.y) ** 2, axis=-1)


_losses = jax.jit(losses_of, static_argnums=0)


def tune(context, name: str, trained: tr.Trained, with_prefix: bool) -> tr.Trained:
    """Tokens tuned for a frozen model, by Adam at the paper's rate, raised for fewer steps."""
    config, D = context.config, context.config.dim
    key = context.key(f"tokens/{name}")
    seeds = config.num_seeds
    tuned = {"eos": jax.random.normal(key, (seeds, D))}
    if with_prefix:
        tuned["prefix"] = jax.random.normal(jax.random.fold_in(key, 1), (seeds, _PREFIX, D))
    start = {"tuned": tuned, "frozen": trained.params}
    recipe = tr.Recipe(config.tuning_steps, config.long_batch, config.tuning_learning_rate,
                       weight_decay=0.0)  # fmt: skip
    sampler = functools.partial(
        _sample, count=recipe.batch_size, num_pairs=config.few_shot_pairs, dim=D
    )
    found = tr.train_seeds(
        context, f"tokens-{name}", None, lambda key: jax.tree.map(lambda leaf: leaf[0], start),
        _tuning_loss(trained.model), sampler, recipe,
        {"of": trained.spec, "pairs": config.few_shot_pairs, "noise": _NOISE,
         "prefix": _PREFIX if with_prefix else 0}, start,
    )  # fmt: skip
    return tr.Trained(None, found.params["tuned"])


def _sample(key, count, num_pairs, dim):
    return draw(key, count, num_pairs, dim)


@functools.lru_cache(maxsize=16)
def _tuning_loss(model):
    def loss(params, pairs):
        frozen = jax.lax.stop_gradient(params["frozen"])
        return jnp.mean(losses_of(model, frozen, pairs, **params["tuned"])), {}

    return loss


def few_shot(context) -> StudyResult:
    """Loss by pair without tuning, with a tuned token, with a prefix; and two tasks in a row."""
    config, D = context.config, context.config.dim
    P, length = config.few_shot_pairs, 3 * config.few_shot_pairs + _PREFIX
    count = config.few_shot_tests
    test, other = (draw(context.key(f"few_shot/{name}"), count, P, D) for name in ("test", "other"))
    half = P // 2
    second = draw(context.key("few_shot/second"), count, P - half, D)
    switched = Pairs(*(jnp.concatenate([a[:, :half], b], axis=1)
                       for a, b in zip(test, second, strict=True)))  # fmt: skip
    rows, switched_rows, arrays = [], [], {}
    found = {"least squares": _regression(test, other)[None], "zero": _nothing(test)}
    twice = {"least squares": _regression(switched, other)[None], "zero": _nothing(switched)}
    for model in config.few_shot_models:
        trained = cmp.train_full(context, model, length=length)
        plain = tune(context, f"eos-{model.replace(', ', '-')}", trained, False)
        both = tune(context, f"prefix-{model.replace(', ', '-')}", trained, True)
        arms = {"": None, " + EOS": plain, " + EOS + prefix": both}
        for arm, tuned in arms.items():
            loss, switch = [], []
            for seed in range(config.num_seeds):
                extra = {} if tuned is None else tr.one(tuned, seed)
                params = tr.one(trained, seed)
                loss.append(np.asarray(_losses(trained.model, params, test, **extra)))
                switch.append(np.asarray(_losses(trained.model, params, switched, **extra)))
            found[model + arm], twice[model + arm] = np.stack(loss), np.stack(switch)
    at = min(10, P - 1)  # pair 11
    for name, loss in found.items():
        rows.append({"learner": name, "pair 1": float(loss[..., 0].mean()),
                     f"pair {at + 1}": float(loss[..., at].mean()),
                     f"pair {P}": float(loss[..., -1].mean())})  # fmt: skip
        again = twice[name]
        switched_rows.append({"learner": name, f"pair {half}": float(again[..., half - 1].mean()),
                              f"pair {half + 1}": float(again[..., half].mean()),
                              f"pair {P}": float(again[..., -1].mean())})  # fmt: skip
        arrays[f"one/{name}"] = loss.mean((0, 1))
        arrays[f"two/{name}"] = again.mean((0, 1))
    judged = config.few_shot_models[0]
    plain, eos = found[judged], found[f"{judged} + EOS"]
    claims = [
        measured("few_shot.untuned", plain[..., -1], plain[..., 0], statistic=ratio),
        measured("few_shot.eos", plain[..., at], eos[..., at],
                 statistic=lambda before, after: 1 - after / before),
    ]  # fmt: skip
    notes = [
        f"Claims are about the model of {judged}, trained on sequences of length {length}. The "
        "second half of two tasks starts at the middle pair.",
        f"A prefix has {_PREFIX} tokens. Least squares counts all earlier pairs, of both tasks.",
        "At the first pair nothing can be known, and zero is the best prediction. The model's is "
        "worse: the claim's ratio is to its own first loss, so compare with zero's, too.",
    ]
    tables = {"loss by pair": rows, "two tasks in a row": switched_rows}
    return StudyResult(claims, tables, arrays, notes)


def _nothing(pairs: Pairs) -> np.ndarray:
    """Losses [1, B, P] of predicting zero."""
    return 0.5 * np.sum(np.asarray(pairs.y, np.float64) ** 2, axis=-1)[None]


def _regression(test: Pairs, other: Pairs) -> np.ndarray:
    """Losses [B, P] of least squares on all earlier pairs, with the best regulariser."""

    def sides(pairs):
        # At pair p the query is x_p and the newest pair is p - 1: shifted by one.
        return pairs.x, jnp.pad(pairs.y[:, :-1], ((0, 0), (1, 0), (0, 0)))

    (x, late), (other_x, other_late) = sides(test), sides(other)
    return least_squares_losses(x, test.y, other_x, other.y, late, other_late)[0]
