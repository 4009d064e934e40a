"""Any learners on the same tasks: losses a step, how alike predictions and sensitivities are.

Dimension key: B tasks in a batch, Q queries, D inputs, K outputs, S steps or layers,
T tasks in all.
"""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from ico.tasks import half_squared_error
from ico.types import Learner, Prompt, PyTree, Sampler


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


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What `compare` measured, as numpy arrays.

    Fields:
      losses: learner -> [S, T], half squared error of each task after each step (S = 1 for a
        learner that returns one prediction).
      prediction_difference: pair -> [T], mean |y_hat_a - y_hat_b| over queries and outputs.
      cosine: pair -> [T], cosine between the two sensitivities.
      sensitivity_difference: pair -> [T], |g_a - g_b|_2 ("model difference" in the paper).
      sensitivity_norm: learner -> [T], |g|_2.

    A pair is (a, b) in the order in which the learners were given.
    """

    losses: dict[str, np.ndarray]
    prediction_difference: dict[tuple[str, str], np.ndarray]
    cosine: dict[tuple[str, str], np.ndarray]
    sensitivity_difference: dict[tuple[str, str], np.ndarray]
    sensitivity_norm: dict[str, np.ndarray]

    def table(self) -> list[dict]:
        """One row a learner: final mean loss, its standard error, and likeness to the first."""
        first, rows = next(iter(self.losses)), []
        for name, loss_ST in self.losses.items():
            final_T = loss_ST[-1]
            row = {
                "learner": name,
                "loss": float(final_T.mean()),
                "standard error": float(final_T.std(ddof=1) / np.sqrt(final_T.size)),
            }
            if name != first:
                row[f"cosine with {first}"] = float(self.cosine[first, name].mean())
                row[f"prediction difference to {first}"] = float(
                    self.prediction_difference[first, name].mean()
                )
            rows.append(row)
        return rows

    def figure(self):
        """A matplotlib figure: mean loss of each learner after each step, with 95% bands."""
        import matplotlib.pyplot as plt

        fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
        for name, loss_ST in self.losses.items():
            steps = np.arange(1, len(loss_ST) + 1)
            mean = loss_ST.mean(axis=1)
            half = 1.96 * loss_ST.std(axis=1, ddof=1) / np.sqrt(loss_ST.shape[1])
            (line,) = ax.plot(steps, mean, marker="o", markersize=4, label=name)
            ax.fill_between(steps, mean - half, mean + half, color=line.get_color(), alpha=0.25)
        ax.set(xlabel="step or layer", ylabel="loss (half squared error)")
        ax.legend()
        return fig


def compare(
    learners: Mapping[str, tuple[Learner, PyTree]],
    sampler: Sampler,
    key: Key[Array, ""],
    *,
    num_batches: int = 1,
) -> Comparison:
    """Run learners on the same tasks and measure how well they do and how alike they are.

    Args:
      learners: name -> (apply, params); `apply(params, prompt)` returns [B, Q, K], or
        [S, B, Q, K] with one prediction a step or layer.
      sampler: key -> Episode, for example
        `lambda key: ico.tasks.linear_regression(key, config)`.
      key: which tasks.
      num_batches: batches drawn from the sampler; T = num_batches B.

    Returns:
      A `Comparison`. Likeness is measured on the last step (2212.07677, section 3).

    Raises:
      ValueError: no learners, num_batches < 1, a prediction of the wrong shape.
    """
    if not learners:
        raise ValueError("compare needs at least one learner")
    if num_batches < 1:
        raise ValueError(f"num_batches must be at least 1, not {num_batches}")
    names = list(learners)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    params = {name: learners[name][1] for name in names}

    @jax.jit
    def measure(params, key):
        episode = sampler(key)
        with jax.default_matmul_precision("highest"):
            return _measure(learners, params, pairs, episode)

    batches = [measure(params, batch_key) for batch_key in jax.random.split(key, num_batches)]
    # Tasks are the last axis everywhere.
    joined = jax.tree.map(lambda *parts: np.concatenate(parts, axis=-1), *batches)

    def ordered(field, keys):  # jax hands dictionaries back sorted; the caller's order is kept
        return {key: joined[field][key] for key in keys}

    return Comparison(
        losses=ordered("losses", names),
        prediction_difference=ordered("prediction_difference", pairs),
        cosine=ordered("cosine", pairs),
        sensitivity_difference=ordered("sensitivity_difference", pairs),
        sensitivity_norm=ordered("sensitivity_norm", names),
    )


def _measure(learners, params, pairs, episode):
    predictions, losses, gradients = {}, {}, {}
    for name, (apply, _) in learners.items():
        prediction = apply(params[name], episode.prompt)
        if prediction.shape[-3:] != episode.y_query.shape or prediction.ndim not in (3, 4):
            raise ValueError(
                f"learner {name!r} predicts {prediction.shape}; "
                f"expected {episode.y_query.shape}, with or without a leading step axis"
            )
        predictions[name] = prediction.reshape(-1, *episode.y_query.shape)
        losses[name] = half_squared_error(predictions[name], episode.y_query)
        gradients[name] = sensitivity(apply, params[name], episode.prompt)

    def norm(gradient):  # over inputs; then the mean over queries and outputs: one number a task
        return jnp.linalg.norm(gradient, axis=-1)

    def cosine(a, b):
        scale = jnp.maximum(norm(a) * norm(b), jnp.finfo(a.dtype).tiny)
        return jnp.sum(a * b, axis=-1) / scale

    def task_mean(value):
        return jnp.mean(value, axis=(1, 2))

    return {
        "losses": losses,
        "prediction_difference": {
            (a, b): task_mean(jnp.abs(predictions[a][-1] - predictions[b][-1])) for a, b in pairs
        },
        "cosine": {(a, b): task_mean(cosine(gradients[a], gradients[b])) for a, b in pairs},
        "sensitivity_difference": {
            (a, b): task_mean(norm(gradients[a] - gradients[b])) for a, b in pairs
        },
        "sensitivity_norm": {name: task_mean(norm(gradients[name])) for name in learners},
    }
