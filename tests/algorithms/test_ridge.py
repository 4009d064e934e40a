"""Ridge regression is the minimiser it says, and the best predictor where its prior is true."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.algorithms import ridge
from ico.algorithms._linear_solve import solve_positive_definite
from ico.tasks import half_squared_error
from ico.types import Prompt

B, N, D, K, Q = 3, 5, 4, 2, 3
solve = jax.jit(ridge)  # one operation at a time it is dozens of small programs


def positive_definite(seed=0, width=D):
    a = np.random.default_rng(seed).standard_normal((width, width))
    return a @ a.T + 0.3 * np.eye(width)


PRECISIONS = {
    "scalar": (2.5, 2.5 * np.eye(D)),
    "diagonal": (np.arange(1.0, D + 1), np.diag(np.arange(1.0, D + 1))),
    "matrix": (positive_definite(), positive_definite()),
}


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("with_mean", [False, True])
@pytest.mark.parametrize("per_task", [False, True])
def test_ridge_is_a_linear_solve(precision, with_mean, per_task, make_episode, x64):
    prompt = make_episode(0, B, N, D, K, Q).prompt
    given, matrix = PRECISIONS[precision]
    mean = np.random.default_rng(1).standard_normal((K, D)) if with_mean else np.zeros((K, D))
    noise = np.array([0.1, 1.0, 3.0]) if per_task else np.full(B, 0.4)
    params = {"noise_variance": jnp.asarray(noise) if per_task else 0.4}
    params["precision"] = jnp.asarray(given)
    if with_mean:
        params["mean"] = jnp.asarray(mean)
    got = solve(params, prompt)
    for b in range(B):
        x, y, query = (np.asarray(leaf[b]) for leaf in prompt)
        normal = x.T @ x / noise[b] + matrix
        w_DK = np.linalg.solve(normal, x.T @ y / noise[b] + matrix @ mean.T)
        np.testing.assert_allclose(got[b], query @ w_DK, atol=1e-11)


def test_precision_is_one_and_mean_zero_by_default(make_episode, x64):
    prompt = make_episode(1, B, N, D, K, Q).prompt
    full = {"noise_variance": 0.4, "precision": jnp.eye(D), "mean": jnp.zeros((K, D))}
    np.testing.assert_allclose(
        solve({"noise_variance": 0.4}, prompt), solve(full, prompt), atol=1e-13
    )


def test_ridge_minimises_the_written_objective(make_episode, x64):
    """Its weights, read out by unit queries, have gradient zero (the objective is convex)."""
    prompt = make_episode(2, 1, N, D, K, Q).prompt
    mean = jnp.asarray(np.random.default_rng(2).standard_normal((K, D)))
    noise, precision = 0.7, jnp.asarray(positive_definite(3))
    params = {"noise_variance": noise, "precision": precision, "mean": mean}
    w_KD = np.asarray(solve(params, prompt._replace(x_query=jnp.eye(D)[None])))[0].T

    def objective(w):
        pairs = zip(*(np.asarray(leaf)[0] for leaf in prompt[:2]), strict=True)
        fit = sum(jnp.sum((w @ x - y) ** 2) for x, y in pairs)
        return fit / noise + jnp.trace((w - mean) @ precision @ (w - mean).T)

    gradient = jax.jit(jax.grad(objective))
    np.testing.assert_allclose(gradient(w_KD), 0, atol=1e-10)
    assert np.abs(gradient(w_KD + 0.01)).min() > 1e-3


def test_ridge_is_best_for_its_own_prior(x64):
    """Tasks drawn from prior and noise: every other noise, precision or mean does worse."""
    rng, tasks = np.random.default_rng(4), 20_000
    precision, noise = positive_definite(5), 0.5
    mean = rng.standard_normal((1, D))
    factor = np.linalg.cholesky(np.linalg.inv(precision))
    w = mean + rng.standard_normal((tasks, 1, D)) @ factor.T
    x = rng.standard_normal((tasks, N + 1, D))
    y = x @ w.transpose(0, 2, 1) + np.sqrt(noise) * rng.standard_normal((tasks, N + 1, 1))
    x, y = jnp.asarray(x), jnp.asarray(y)
    prompt = Prompt(x[:, :N], y[:, :N], x[:, N:])
    true = {"precision": precision, "mean": mean, "noise_variance": noise}
    score = jax.jit(lambda params: half_squared_error(ridge(params, prompt), y[:, N:]))
    losses = np.asarray(score(true))
    others = {
        "noise": {"noise_variance": noise * 1.7},
        "less noise": {"noise_variance": noise / 1.7},
        "precision": {"precision": np.diag(np.diag(precision))},
        "strong": {"precision": 1.7 * true["precision"]},
        "mean": {"mean": true["mean"] + 0.4},
    }
    for name, change in others.items():
        worse = np.asarray(score(true | change)) - losses
        assert worse.mean() > 3 * worse.std() / np.sqrt(tasks), name


def test_without_noise_it_is_least_squares(make_episode, x64):
    prompt = make_episode(6, B, 9, D, K, Q).prompt
    x, y, query = map(np.asarray, prompt)
    got = solve({"noise_variance": 1e-13}, prompt)
    np.testing.assert_allclose(got, query @ (np.linalg.pinv(x) @ y), atol=1e-9)


def test_without_information_it_is_the_mean(make_episode, x64):
    prompt = make_episode(7, B, N, D, K, Q).prompt
    mean = jnp.asarray(np.random.default_rng(8).standard_normal((K, D)))
    got = solve({"noise_variance": 1e13, "mean": mean}, prompt)
    np.testing.assert_allclose(got, prompt.x_query @ mean.T, atol=1e-9)


def smallest(x, y, noise):
    """Ridge weights by numpy, from the singular values; the smallest where several are best."""
    u, sizes, vt = np.linalg.svd(x, full_matrices=False)
    kept = sizes > 1e-6 * sizes.max(initial=1e-30)
    scale = np.where(kept, sizes / np.where(kept, sizes**2 + noise, 1), 0)
    return vt.T @ (scale[:, None] * (u.T @ y))


@pytest.mark.parametrize("pairs", [0, 4, 25])
def test_any_context_and_noise_in_float32(pairs):
    """Few, many, equal, zero and no pairs; ill-conditioned inputs; noise down to none."""
    rng = np.random.default_rng(pairs)
    x = rng.normal(size=(5, pairs, 10))
    x[1] = x[1, :1]
    x[2] = 0
    x[3, pairs // 2 :] = x[3, : pairs - pairs // 2]
    x[4] *= np.geomspace(1, 1e-2, 10)
    x, y = x.astype(np.float32), rng.normal(size=(5, pairs, 2)).astype(np.float32)
    query = rng.normal(size=(5, 3, 10)).astype(np.float32)
    for noise in (1e-1, 1e-6, 1e-8, 0.0):
        got = solve({"noise_variance": np.float32(noise)}, Prompt(*map(jnp.asarray, (x, y, query))))
        for b in range(5):
            weights = smallest(*(np.float64(a[b]) for a in (x, y)), float(np.float32(noise)))
            wanted = query[b] @ weights
            condition = 100 if b == 4 else 10
            limit = 1e-6 * condition * max(np.abs(wanted).max(), 1)
            np.testing.assert_allclose(got[b], wanted, rtol=0, atol=limit)


def test_derivatives_are_those_of_the_solution(x64):
    """Of every argument and of second order, with fewer pairs than inputs and two equal ones."""
    rng = np.random.default_rng(0)
    x, query, y = (rng.normal(size=(1, n, d)) for n, d in ((3, 4), (2, 4), (3, 1)))
    x[:, 1] = x[:, 0]
    given = [jnp.asarray(a) for a in (0.3, x, y, query)]
    along = [jnp.asarray(rng.normal(size=a.shape)) for a in given]

    def ours(s, x, y, query):
        return jnp.sum(jnp.sin(ridge({"noise_variance": s}, Prompt(x, y, query))))

    def dense(s, x, y, query):
        gram = jnp.einsum("bnd,bne->bde", x, x) + s * jnp.eye(4)[None]
        return jnp.sum(jnp.sin(query @ jnp.linalg.solve(gram, jnp.einsum("bnd,bnk->bdk", x, y))))

    def second(f):
        return jax.jit(lambda *a: jax.jvp(jax.grad(f, (0, 1, 2, 3)), a, tuple(along)))(*given)

    chex.assert_trees_all_close(second(ours), second(dense), atol=1e-11)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"noise_variance": -1.0}, "noise_variance must be at least 0"),
        ({"noise_variance": np.nan}, "noise_variance must be at least 0"),
        ({"precision": np.array([1.0, 0, 1, 1])}, "precision must be positive"),
        ({"precision": -np.eye(D)}, "precision must be positive definite"),
    ],
)
def test_no_variance_or_precision_is_refused(change, named, make_episode):
    with pytest.raises(ValueError, match=named):
        ridge({"noise_variance": 1.0} | change, make_episode(0, B, N, D, K, Q).prompt)


@pytest.mark.parametrize("shape", [(3,), (4, 3), (3, 3), (1, 4, 4)])
def test_precision_of_a_wrong_shape(shape, make_episode):
    prompt = make_episode(0, B, N, D, K, Q).prompt
    with pytest.raises(ValueError):
        ridge({"noise_variance": 1.0, "precision": np.ones(shape, np.float32)}, prompt)


@pytest.mark.parametrize("width", [1, 2, 7, 20])
def test_elimination_solves_positive_definite_systems(width, x64):
    """Backward stable: the residual is of the order of rounding, whatever the condition."""
    rng = np.random.default_rng(width)
    basis = np.linalg.qr(rng.standard_normal((4, width, width)))[0]
    matrix = basis * np.geomspace(1, 1e-8, width)[None, None] @ basis.transpose(0, 2, 1)
    rhs = rng.standard_normal((4, width, 3))
    got = np.asarray(jax.jit(solve_positive_definite)(matrix, rhs))
    residual = np.abs(matrix @ got - rhs).max((1, 2))
    scale = np.abs(matrix).max((1, 2)) * np.abs(got).max((1, 2)) * width
    assert (residual < 1e-14 * scale).all()
