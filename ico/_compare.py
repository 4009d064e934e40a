"""Any learners on the same tasks: their losses, and how alike their predictions are.

Dimension key: S seeds, L steps or layers, B tasks in a batch, T tasks in all, Q queries, D inputs,
K outputs.
"""

import dataclasses
import functools
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ico.tasks import half_squared_error
from ico.types import Episode, Learner, Prompt, PyTree, Sampler, working_dtype

Pair = tuple[str, str]


class Seeded(NamedTuple):
    """A learner with the parameters of several trained models, one a seed.

    Fields:
      apply: (params of one seed, prompt) -> prediction.
      params: of all seeds, every leaf [S, ...].
    """

    apply: Learner
    params: PyTree

    @property
    def num_seeds(self) -> int:
        """S."""
        return len(jax.tree.leaves(self.params)[0])


def sensitivity(apply: Learner, params: PyTree, prompt: Prompt) -> Float[Array, "B Q K D"]:
    """`d y_hat / d x_query` of every query, with the context held fixed.

    For a learner that fits a linear model in context this is that model's weights. A query's
    prediction must depend on no other query (so it is for every learner here); the derivative of
    the sum over queries is then the derivative of each.
    """

    def total(x_query, output):
        prediction = apply(params, prompt._replace(x_query=x_query))
        prediction = prediction[-1] if prediction.ndim == 4 else prediction
        return jnp.sum(prediction[..., output])

    outputs = range(prompt.y.shape[-1])
    gradients = [jax.grad(total)(prompt.x_query, output) for output in outputs]
    return jnp.stack(gradients, axis=-2)


def likeness(
    first: tuple[Learner, PyTree], second: tuple[Learner, PyTree], prompt: Prompt
) -> dict[str, Float[Array, "B"]]:
    """How alike two learners are on each task (2212.07677, section 3). Pure, so it can be traced.

    Args:
      first, second: (apply, params), without a seed axis.
      prompt: the tasks.

    Returns:
      "cosine" between the two sensitivities, "sensitivity_difference" (the norm of their
      difference; "model difference" in the paper) and "prediction_difference" (its absolute
      value), each the mean over queries and outputs.
    """
    return _alike(*(_respond(apply, params, prompt) for apply, params in (first, second)))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` measured, as NumPy arrays.

    Learners with seeds have a leading axis S everywhere; a pair has it if one of the two does.

    Fields:
      losses: learner -> [T], or [L, T] if it predicts after each step; [S, T] or [S, L, T] with
        seeds. Half the squared error of each task.
      num_seeds: learner -> S, or None for a learner without seeds.
      prediction_difference: pair -> [T] or [S, T], mean |y_hat_a - y_hat_b| over queries and
        outputs.
      cosine: pair -> [T] or [S, T], cosine between the two sensitivities.
      sensitivity_difference: pair -> [T] or [S, T], |g_a - g_b|_2 ("model difference" in the
        paper).
      sensitivity_norm: learner -> [T] or [S, T], |g|_2; of the learners that are in a pair.

    A pair is (a, b), by default in the order in which the learners were given.
    """

    losses: dict[str, np.ndarray]
    num_seeds: dict[str, int | None]
    prediction_difference: dict[Pair, np.ndarray]
    cosine: dict[Pair, np.ndarray]
    sensitivity_difference: dict[Pair, np.ndarray]
    sensitivity_norm: dict[str, np.ndarray]

    def by_step(self, name: str) -> np.ndarray:
        """Losses after each step, [L, T] or [S, L, T]; L = 1 for a learner that predicts once."""
        loss = self.losses[name]
        seeds = self.num_seeds[name] is not None
        return loss if loss.ndim == 2 + seeds else np.expand_dims(loss, int(seeds))

    def final(self, name: str) -> np.ndarray:
        """Losses after the last step, [T] or [S, T]."""
        return self.by_step(name)[..., -1, :]

    def table(self) -> list[dict]:
        """One row a learner: final mean loss, its standard error, and likeness to the first.

        The standard error is over tasks; where there are seeds, of the mean over seeds, whose best
        and worst are shown beside it.
        """
        first, rows = next(iter(self.losses)), []
        for name in self.losses:
            final_ST = np.atleast_2d(self.final(name))
            final_T = final_ST.mean(axis=0)
            row: dict[str, Any] = {
                "learner": name,
                "loss": float(final_T.mean()),
                "standard error": float(final_T.std(ddof=1) / np.sqrt(final_T.size)),
            }
            if self.num_seeds[name] is not None:
                by_seed = final_ST.mean(axis=1)
                row |= {"best seed": float(by_seed.min()), "worst seed": float(by_seed.max())}
            if (first, name) in self.cosine:
                difference = self.prediction_difference[first, name]
                row[f"cosine with {first}"] = float(self.cosine[first, name].mean())
                row[f"prediction difference to {first}"] = float(difference.mean())
            rows.append(row)
        return rows

    def figure(self):
        """A Matplotlib figure: mean loss of each learner after each step, with 95% bands.

        Bands are over tasks; losses of several seeds are averaged first.
        """
        import matplotlib.pyplot as plt

        fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
        for name in self.losses:
            loss_LT = self.by_step(name)
            loss_LT = loss_LT if loss_LT.ndim == 2 else loss_LT.mean(axis=0)
            steps = np.arange(1, len(loss_LT) + 1)
            mean = loss_LT.mean(axis=1)
            half = 1.96 * loss_LT.std(axis=1, ddof=1) / np.sqrt(loss_LT.shape[1])
            (line,) = ax.plot(steps, mean, marker="o", markersize=4, label=name)
            ax.fill_between(steps, mean - half, mean + half, color=line.get_color(), alpha=0.25)
        ax.set(xlabel="step or layer", ylabel="loss (half squared error)")
        ax.legend()
        return fig


def compare(
    learners: Mapping[str, Any],
    tasks: Sampler | Episode,
    key: Key[Array, ""] | None = None,
    *,
    num_batches: int = 1,
    pairs: Iterable[Pair] | None = None,
) -> Comparison:
    """Runs learners on the same tasks and measures how well they do and how alike they are.

        ico.compare({"layer": lab.train(...), "descent": (algorithms.gd, {"rate": 6.0})}, episode)

    A learner is compiled once for a shape of tasks, however often it is compared, as long as
    `apply` is the same function. Matrix products run at `highest` precision.

    Args:
      learners: name -> (apply, params), or a learner with seeds: `ico.Seeded(apply, params)`, or
        any object with `apply`, `params` and `num_seeds` such as `ico.lab.Trained`.
        `apply(params, prompt)` returns [B, Q, K], or [L, B, Q, K] with one prediction a step or
        layer.
      tasks: an Episode, whose B tasks are used; or a sampler, key -> Episode, for example
        `lambda key: ico.tasks.linear_regression(key, config)`.
      key: which tasks the sampler draws; None for an Episode.
      num_batches: batches drawn from the sampler; T = num_batches B.
      pairs: of which learners to measure the likeness; None takes all pairs, () none. With seeds
        on both sides, seed s is paired with seed s.

    Returns:
      A `Comparison`. Likeness is measured on the last step (2212.07677, section 3).

    Raises:
      ValueError: no learners, num_batches < 1, a sampler without a key or an Episode with one, a
        pair of unknown learners or of different numbers of seeds, a prediction of the wrong shape.
    """
    entries = {name: _Entry.of(learner) for name, learner in learners.items()}
    names = list(entries)
    if pairs is None:
        pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    pairs = list(pairs)
    _check(entries, pairs)
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, not {num_batches}")
    if isinstance(tasks, Episode):
        if key is not None or num_batches > 1:
            raise ValueError("an Episode is compared on as it is: without key or num_batches")
        episodes = [tasks]
    elif key is None:
        raise ValueError("a sampler needs a key")
    else:
        episodes = map(jax.jit(tasks), jax.random.split(key, num_batches))
    batches = [_measure(entries, pairs, episode) for episode in episodes]
    # Tasks are the last axis everywhere.
    joined = {
        field: {
            name: np.concatenate([batch[field][name] for batch in batches], axis=-1)
            for name in of_first
        }
        for field, of_first in batches[0].items()
    }
    return Comparison(num_seeds={name: one.num_seeds for name, one in entries.items()}, **joined)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A learner, its parameters, and how many seeds they have (None: no seed axis)."""

    apply: Learner
    params: PyTree
    num_seeds: int | None

    @classmethod
    def of(cls, learner: Any) -> "_Entry":
        if hasattr(learner, "num_seeds"):
            return cls(learner.apply, learner.params, learner.num_seeds)
        apply, params = learner
        return cls(apply, params, None)


def _check(entries: Mapping[str, _Entry], pairs: list[Pair]) -> None:
    if not entries:
        raise ValueError("compare needs at least one learner")
    for pair in pairs:
        if unknown := set(pair) - set(entries):
            raise ValueError(f"pair {pair}: no learner is called {sorted(unknown)[0]!r}")
        first, second = (entries[name].num_seeds for name in pair)
        if first is not None and second is not None and first != second:
            raise ValueError(f"pair {pair}: {first} and {second} seeds cannot be paired")


def _measure(entries: Mapping[str, _Entry], pairs: list[Pair], episode: Episode) -> dict:
    """The fields of a `Comparison` that have tasks, on one batch."""
    losses, responses = {}, {}
    for name, one in entries.items():
        measure = _losses if one.num_seeds is None else _losses_by_seed
        try:
            losses[name] = measure(one.apply, one.params, episode)
        except _WrongShape as error:
            raise ValueError(f"learner {name!r} {error}") from None
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        one = entries[name]
        respond = _respond if one.num_seeds is None else _respond_by_seed
        responses[name] = respond(one.apply, one.params, episode.prompt)
    alike = {(a, b): _alike(responses[a], responses[b]) for a, b in pairs}
    fields = ("prediction_difference", "cosine", "sensitivity_difference")
    return {
        "losses": losses,
        **{field: {pair: found[field] for pair, found in alike.items()} for field in fields},
        "sensitivity_norm": {name: _norm(slope) for name, (_, slope) in responses.items()},
    }


class _WrongShape(ValueError):
    """A prediction that does not fit the tasks."""


@functools.partial(jax.jit, static_argnums=0)
def _losses(apply, params, episode):
    """[T], or [L, T] of a learner that predicts after each step."""
    with jax.default_matmul_precision("highest"):
        prediction = apply(params, episode.prompt)
    if prediction.shape[-3:] != episode.y_query.shape or prediction.ndim not in (3, 4):
        raise _WrongShape(
            f"predicts {prediction.shape}; expected {episode.y_query.shape}, with or without a "
            "leading step axis"
        )
    return half_squared_error(prediction, episode.y_query)


@functools.partial(jax.jit, static_argnums=0)
def _losses_by_seed(apply, params, episode):
    """[S, T] or [S, L, T]: one seed after the other, which takes the memory of one."""
    return jax.lax.map(lambda one: _losses(apply, one, episode), params)


@functools.partial(jax.jit, static_argnums=0)
def _respond(apply, params, prompt):
    """The last prediction [B, Q, K] and its sensitivity [B, Q, K, D], in float32 or better."""
    with jax.default_matmul_precision("highest"):
        prediction = apply(params, prompt)
        slope = sensitivity(apply, params, prompt)
    last = prediction[-1] if prediction.ndim == 4 else prediction
    return last.astype(working_dtype(last)), slope.astype(working_dtype(slope))


@functools.partial(jax.jit, static_argnums=0)
def _respond_by_seed(apply, params, prompt):
    return jax.lax.map(lambda one: _respond(apply, one, prompt), params)


@jax.jit
def _alike(first, second):
    """The three measures of likeness, [B], or [S, B] if a side has seeds."""
    ndim = max(first[0].ndim, second[0].ndim)
    first, second = (
        side if side[0].ndim == ndim else jax.tree.map(lambda leaf: leaf[None], side)
        for side in (first, second)
    )
    (prediction_a, slope_a), (prediction_b, slope_b) = first, second
    # Norms are over inputs; the mean over queries and outputs is one number a task.
    norms = jnp.linalg.norm(slope_a, axis=-1) * jnp.linalg.norm(slope_b, axis=-1)
    scale = jnp.maximum(norms, jnp.finfo(norms.dtype).tiny)
    return {
        "prediction_difference": jnp.abs(prediction_a - prediction_b).mean(axis=(-2, -1)),
        "cosine": (jnp.sum(slope_a * slope_b, axis=-1) / scale).mean(axis=(-2, -1)),
        "sensitivity_difference": _norm(slope_a - slope_b),
    }


@jax.jit
def _norm(slope):
    return jnp.linalg.norm(slope, axis=-1).mean(axis=(-2, -1))
