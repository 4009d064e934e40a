"""The registry of learners that tests/conformance/test_learners.py runs over.

Weights set by hand (`ico.algorithms.constructions`) are learners through `ico.models.learner`.

Dimension key: B tasks, N context pairs, D inputs, K outputs, Q queries, L layers or steps.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ico import algorithms as al
from ico.algorithms import constructions
from ico.models import LinearTransformer, learner
from ico.types import Prompt

B, N, D, Q, L = 3, 7, 4, 3, 2
START = np.random.default_rng(5).normal(size=(2, D))  # [K, D], of gradient descent; a prior's mean
SCALARS = al.DiagonalScalars(*np.random.default_rng(6).normal(size=(4, L)) / 20)
P, Q_MATRICES = np.random.default_rng(7).normal(size=(2, L, 2, D + 1, D + 1)) / 10


class Learner(NamedTuple):
    """How a learner is called and what holds for it.

    Fields:
      apply: `apply(params, prompt, **options)`, to [B, Q, K].
      params: its parameters.
      oracle: the prediction for one task in numpy, `oracle(params, x, y, query)`.
      num_outputs: K.
      options: the same in all calls.
      every_step: the option that returns the prediction after each of L steps, and its value; None
        for learners without steps.
      linear: whether the prediction is linear in the labels.
      centred: whether labels of zero are answered by zero.
      isotropic: whether it has no preferred direction of the input space.
    """

    apply: Callable
    params: Any
    oracle: Callable
    num_outputs: int = 2
    options: dict[str, Any] = {}
    every_step: Callable | None = None
    linear: bool = True
    centred: bool = True
    isotropic: bool = True


def descended(params, x, y, query):
    """Gradient descent on 1/(2N) sum |W x - y|^2."""
    w = params.get("w0", np.zeros((y.shape[1], x.shape[1])))
    for rate in np.broadcast_to(params["rate"], L):
        w = w - rate * (x @ w.T - y).T @ x / len(x)
    return query @ w.T


def descended_plus_plus(params, x, y, query):
    """GD++: labels lose what a step adds to W, and inputs are turned by I - gamma X^T X."""
    prediction = 0
    for _ in range(L):
        step = params["rate"] / len(x) * x.T @ y
        prediction, y = prediction + query @ step, y - x @ step
        turn = np.eye(x.shape[1]) - params["gamma"] * x.T @ x
        x, query = x @ turn, query @ turn
    return prediction


def newton_stepped(params, x, y, query):
    w = params.get("w0", np.zeros((y.shape[1], x.shape[1]))).T
    hessian = x.T @ x / len(x) + params["damping"] * np.eye(x.shape[1])
    for _ in range(L):
        w = w - params["rate"] * np.linalg.solve(hessian, x.T @ (x @ w - y) / len(x))
    return query @ w


def posterior_mean(params, x, y, query):
    """Of weights N(mean, precision^-1) under Gaussian noise."""
    mean = params.get("mean", np.zeros((y.shape[1], x.shape[1]))).T
    a = params["noise_variance"] * params.get("precision", 1.0) * np.eye(x.shape[1])
    return query @ np.linalg.solve(x.T @ x + a, x.T @ y + a @ mean)


def adapted(params, x, y, query):
    """Ridge regression with the noise variance that least squares leaves."""
    _, (residual,), *_ = np.linalg.lstsq(x, y[:, 0])
    noise = params.get("multiplier", 1.0) * residual / (len(x) - x.shape[1])
    noise = min(noise, params.get("maximum", np.inf))
    return posterior_mean({"noise_variance": noise}, x, y, query)


def attended(p_LHEE, q_LHEE, x, y, query):
    """Linear attention over tokens (x, y), the query's y being 0; the answer is minus its y."""
    tokens = np.concatenate([np.c_[x, y], np.c_[query, np.zeros(len(query))]])
    for p, q in zip(p_LHEE, q_LHEE, strict=True):
        gram = tokens[: len(x)].T @ tokens[: len(x)]
        tokens = tokens + sum(tokens @ (p[h] @ gram @ q[h]).T for h in range(len(p)))
    return -tokens[len(x) :, -1:]


def diagonal(scalars, x, y, query):
    """The same with P = diag(p_x I, p_y) and Q alike: one head for every scalar."""
    on_x, on_y = np.diag([1.0] * D + [0]), np.diag([0.0] * D + [1])
    p, q = [], []
    for xx, xy, yx, yy in zip(*scalars, strict=True):
        p.append([xx * on_x, xy * on_x, yx * on_y, yy * on_y])
        q.append([on_x, on_y, on_x, on_y])
    return attended(np.array(p), np.array(q), x, y, query)


def by_diagonal_weights(scalars, prompt, **options):
    w = al.diagonal_weights(scalars, al.statistics(prompt), **options)
    return jnp.einsum("bqd,...bd->...bq", prompt.x_query, w)[..., None]


def by_implicit_weights(params, prompt):
    w = al.implicit_weights(*params, al.statistics(prompt))
    return jnp.einsum("bqd,bd->bq", prompt.x_query, w)[..., None]


def by_implicit_model(params, prompt, *, all_steps=False):
    w = al.implicit_model(*params, al.statistics(prompt)).w[1:]
    predictions = jnp.einsum("bqd,lbd->lbq", prompt.x_query, w)[..., None]
    return predictions if all_steps else predictions[-1]


def transformer(construction, **params):
    """A construction as a learner. It takes the parameters of the algorithm that it performs."""
    start = "w0" in params
    model = LinearTransformer(D, 2, num_layers=L, tied=True, initial_weights=start)
    sizes = {"num_context": N, "num_inputs": D, "num_outputs": 2, "num_layers": L, "tied": True}

    def apply(params, prompt, all_layers=False):
        weights = construction(**params, **sizes)
        return learner(model, all_layers=all_layers)(weights, prompt)

    return apply


def every(**option):
    return lambda apply: functools.partial(apply, **option)


STEPS = every(all_steps=True)
FREE = {"linear": False}  # in the labels

# Add a new learner here.
LEARNERS = {
    "gd": Learner(al.gd, {"rate": 0.4}, descended, 2, {"num_steps": L}, STEPS),
    "gd, rates": Learner(al.gd, {"rate": np.array([0.4, 0.9])}, descended, every_step=STEPS),
    "gd, start": Learner(
        al.gd,
        {"rate": 0.4, "w0": START},
        descended,
        2,
        {"num_steps": L},
        STEPS,
        False,
        False,
        False,
    ),
    "gd_plus_plus": Learner(
        al.gd_plus_plus,
        {"rate": 0.4, "gamma": 0.03},
        descended_plus_plus,
        2,
        {"num_steps": L},
        STEPS,
    ),
    "newton": Learner(
        al.newton, {"rate": 0.8, "damping": 0.1}, newton_stepped, 2, {"num_steps": L}, STEPS
    ),
    "ridge": Learner(al.ridge, {"noise_variance": 0.2}, posterior_mean),
    "ridge, prior": Learner(
        al.ridge,
        {"noise_variance": 0.2, "precision": np.array([1.0, 2, 3, 4]), "mean": START},
        posterior_mean,
        linear=False,
        centred=False,
        isotropic=False,
    ),
    "adaptive_ridge": Learner(al.adaptive_ridge, {}, adapted, 1, **FREE),
    "adaptive_ridge, tuned": Learner(
        al.adaptive_ridge, {"multiplier": 1.7, "maximum": 0.15}, adapted, 1, **FREE
    ),
    "diagonal_weights": Learner(
        by_diagonal_weights, SCALARS, diagonal, 1, every_step=every(all_layers=True), **FREE
    ),
    "implicit_weights": Learner(
        by_implicit_weights,
        (P, Q_MATRICES),
        lambda pq, *task: attended(*pq, *task),
        1,
        linear=False,
        centred=False,
        isotropic=False,
    ),
    "implicit_model": Learner(
        by_implicit_model,
        (P, Q_MATRICES),
        lambda pq, *task: attended(*pq, *task),
        1,
        every_step=STEPS,
        linear=False,
        centred=False,
        isotropic=False,
    ),
    "constructions.gd": Learner(
        transformer(constructions.gd), {"rate": 0.4}, descended, 2, {}, every(all_layers=True)
    ),
    "constructions.gd, start": Learner(
        transformer(constructions.gd, w0=START),
        {"rate": 0.4, "w0": START},
        descended,
        2,
        {},
        every(all_layers=True),
        False,
        False,
        False,
    ),
    "constructions.gd_plus_plus": Learner(
        transformer(constructions.gd_plus_plus),
        {"rate": 0.4, "gamma": 0.03},
        descended_plus_plus,
        2,
        {},
        every(all_layers=True),
    ),
}
# Exported functions that are no learners: what they are made of, tuning, and reading weights.
HELPERS = {
    *("best_noise_variance", "excess", "gram_eigenvalues", "layers_needed", "linear_losses"),
    *("log_uniform_spectrum", "refined_search", "sample_contexts", "sample_spectral_contexts"),
    "tuned_next_vector_ridge",
    *("statistics", "ridge_weights", "adaptive_ridge_weights", "estimated_noise_variance"),
    *("diagonal_heads", "diagonal_scalars", "descent_reading"),
    *("best_rates", "expected_loss", "gd_plus_plus_error", "grid_search"),
    *(
        "constructions.next_vector",
        "next_vector_gd",
        "next_vector_ridge",
        "preconditioned_inputs",
    ),  # for sequences
    "constructions.prototype_head",
    *("class_means", "nearest_class_mean", "logistic_regression"),  # for classes
}


def draw(name, seed=0):
    """Noisy linear tasks, in float64 where that is enabled."""
    rng, K = np.random.default_rng(seed), LEARNERS[name].num_outputs
    x, w = rng.uniform(-1, 1, (B, N, D)), rng.normal(size=(B, D, K))
    y = x @ w + 0.3 * rng.normal(size=(B, N, K))
    return Prompt(*map(jnp.asarray, (x, y, rng.uniform(-1, 1, (B, Q, D)))))


def params_of(name):
    return jax.tree.map(jnp.asarray, LEARNERS[name].params)


def call(name, params, prompt):
    return LEARNERS[name].apply(params, prompt, **LEARNERS[name].options)
