"""What every learner of `ico.algorithms` owes, over one table of how each is called.

`LEARNERS` is the registry: an exported learner without an entry there fails the first test. Weights
written by hand (`ico.algorithms.constructions`) are learners through `ico.models.learner`.

Dimension key: B tasks, N context pairs, D inputs, K outputs, Q queries, L layers or steps.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

import ico
from ico import algorithms as al
from ico.algorithms import constructions
from ico.models import LinearTransformer, learner
from ico.types import Episode, Prompt

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
    *("statistics", "ridge_weights", "adaptive_ridge_weights", "estimated_noise_variance"),
    *("diagonal_heads", "diagonal_scalars", "descent_reading"),
    *("grid_search", "tune_ridge"),
    "constructions.next_vector",  # for sequences: tests/models
}
each_learner = parameterized.named_parameters((name, name) for name in LEARNERS)


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


@functools.cache
def compiled(name):
    """The learner over an axis of seeds, as a function of prompts alone."""
    predict = jax.jit(functools.partial(call, name))
    return functools.partial(predict, params_of(name))


def test_every_exported_learner_has_an_entry():
    functions = {n for n in al.__all__ if inspect.isfunction(getattr(al, n))}
    public = (n for n in dir(constructions) if inspect.isfunction(getattr(constructions, n)))
    functions |= {f"constructions.{n}" for n in public if not n.startswith("_")}
    named = {name.split(",")[0] for name in LEARNERS} | HELPERS
    assert not (functions - named), (
        f"{sorted(functions - named)} is exported from ico.algorithms: add an entry to LEARNERS in "
        "tests/conformance/test_learners.py, or to HELPERS there if it is no learner"
    )
    assert not (named - functions), f"{sorted(named - functions)} is not exported"


@pytest.mark.usefixtures("x64")
class Learners(chex.TestCase):
    """Properties of all of them."""

    def setUp(self):
        super().setUp()
        chex.clear_trace_counter()

    @each_learner
    def test_oracle_in_float64(self, name):
        """To the last digits: a task at a time, in numpy, from the definition."""
        prompt, params = draw(name), LEARNERS[name].params
        found = compiled(name)(prompt)
        chex.assert_shape(found, (B, Q, LEARNERS[name].num_outputs))
        for b in range(B):
            x, y, query = (np.asarray(leaf[b]) for leaf in prompt)
            expected = LEARNERS[name].oracle(params, x, y, query)
            chex.assert_trees_all_close(found[b], expected, atol=1e-12)

    @chex.variants(with_jit=True, without_jit=True)
    @each_learner
    def test_float32_is_near_float64_and_compiles_once(self, name):
        """One trace serves other tasks and other parameters; parameters have no fixed values."""

        def predict(params, prompt):
            return call(name, params, prompt)

        jitted = "with_jit" in self.id()
        predict = self.variant(chex.assert_max_traces(predict, 1) if jitted else predict)
        for seed in range(2):
            prompt = draw(name, seed)
            changed = jax.tree.map(lambda a, s=seed: (1 + s / 8) * a, params_of(name))
            wide = jax.jit(functools.partial(call, name))(changed, prompt)
            narrow = jax.tree.map(lambda a: a.astype(jnp.float32), (changed, prompt))
            found = predict(*narrow)
            chex.assert_type(found, jnp.float32)
            chex.assert_trees_all_close(np.float64(found), np.float64(wide), atol=1e-5)

    @each_learner
    def test_every_step_ends_in_the_last(self, name):
        entry = LEARNERS[name]
        if entry.every_step is None:
            return
        prompt, params = draw(name), params_of(name)
        steps = jax.jit(entry.every_step(functools.partial(entry.apply, **entry.options)))
        found = steps(params, prompt)
        chex.assert_shape(found, (L, B, Q, entry.num_outputs))
        chex.assert_trees_all_close(found[-1], compiled(name)(prompt), atol=1e-13)
        assert np.abs(found[0] - found[1]).max() > 1e-2

    @each_learner
    def test_a_context_is_a_set(self, name):
        """The order of pairs is nothing; permuted queries and tasks have permuted answers."""
        predict, prompt = compiled(name), draw(name)
        expected = predict(prompt)
        pairs, queries, tasks = (np.random.default_rng(0).permutation(n) for n in (N, Q, B))
        shuffled = prompt._replace(x=prompt.x[:, pairs], y=prompt.y[:, pairs])
        chex.assert_trees_all_close(predict(shuffled), expected, atol=1e-13)
        broken = prompt._replace(y=prompt.y[:, pairs])
        assert np.abs(predict(broken) - expected).max() > 1e-2
        shuffled = prompt._replace(x_query=prompt.x_query[:, queries])
        chex.assert_trees_all_close(predict(shuffled), expected[:, queries], atol=1e-13)
        shuffled = jax.tree.map(lambda a: a[tasks], prompt)
        chex.assert_trees_all_close(predict(shuffled), expected[tasks], atol=1e-13)

    @each_learner
    def test_a_prediction_depends_on_its_own_query_and_task_only(self, name):
        predict = functools.partial(call, name, params_of(name))
        jacobian = jax.jit(jax.jacrev(predict))(draw(name))
        chex.assert_tree_all_finite(jacobian)
        by_query = np.abs(jacobian.x_query).sum((2, 5))  # [B, Q, B, Q]
        same = np.eye(B * Q).reshape(B, Q, B, Q) == 1
        assert (by_query[~same] == 0).all() and (by_query[same] > 0).all()
        for leaf in (jacobian.x, jacobian.y):
            by_pair = np.abs(leaf).sum((1, 2, 5))  # [B, B, N]
            other = ~np.eye(B, dtype=bool)
            assert (by_pair[other] == 0).all() and (by_pair[~other] > 0).all()

    @each_learner
    def test_linear_in_queries_and_where_it_says_so_in_labels(self, name):
        """The sum of two is the sum of both predictions, which homogeneity alone would not show."""
        predict, one, two = compiled(name), draw(name, 0), draw(name, 1)
        queries = {"x_query": 3 * one.x_query - 2 * two.x_query}
        both = 3 * predict(one) - 2 * predict(one._replace(x_query=two.x_query))
        chex.assert_trees_all_close(predict(one._replace(**queries)), both, atol=1e-12)
        labels = one._replace(y=3 * one.y - 2 * two.y)
        error = predict(labels) - (3 * predict(one) - 2 * predict(one._replace(y=two.y)))
        if LEARNERS[name].linear:
            chex.assert_trees_all_close(error, jnp.zeros_like(error), atol=1e-12)
        elif "start" not in name and "prior" not in name:  # those are affine
            assert np.abs(error).max() > 1e-4, "it is linear: say so in its entry"
        silence = predict(one._replace(y=jnp.zeros_like(one.y)))
        if LEARNERS[name].centred:
            chex.assert_trees_all_close(silence, jnp.zeros_like(silence), atol=1e-14)
        else:
            assert np.abs(silence).max() > 1e-3, "it is centred: say so in its entry"

    @each_learner
    def test_turned_inputs_are_nothing_where_it_says_so(self, name):
        predict, prompt = compiled(name), draw(name)
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]
        turned = prompt._replace(x=prompt.x @ turn, x_query=prompt.x_query @ turn)
        error = np.abs(predict(turned) - predict(prompt)).max()
        assert (error < 1e-12) if LEARNERS[name].isotropic else (error > 1e-3)

    @each_learner
    def test_many_parameters_under_one_vmap(self, name):
        """What seeds and searches over parameters do."""
        prompt, params = draw(name), params_of(name)
        if not jax.tree.leaves(params):
            return
        stacked = jax.tree.map(lambda a: jnp.stack([a, 1.1 * a]), params)
        found = jax.jit(jax.vmap(functools.partial(call, name), (0, None)))(stacked, prompt)
        chex.assert_trees_all_close(found[0], compiled(name)(prompt), atol=1e-13)
        assert np.abs(found[1] - found[0]).max() > 1e-4

    @parameterized.parameters(1, 2)
    def test_all_of_them_compare(self, num_outputs):
        """`ico.compare` takes them all at once, with and without steps."""
        learners = {}
        for name, entry in LEARNERS.items():
            if entry.num_outputs == num_outputs:
                apply = functools.partial(entry.apply, **entry.options)
                apply = entry.every_step(apply) if entry.every_step else apply
                learners[name] = (apply, params_of(name))

        def sample(key):
            prompt = draw(next(iter(learners)))
            return Episode(prompt, prompt.x_query[..., :num_outputs])

        result = ico.compare(learners, sample, jax.random.key(0))
        chex.assert_tree_all_finite(result.losses)
        for name, losses in result.losses.items():
            chex.assert_shape(losses, (L if LEARNERS[name].every_step else 1, B))
        equal = {1: ("implicit_weights", "implicit_model"), 2: ("gd", "constructions.gd")}
        difference = result.sensitivity_difference[equal[num_outputs]]
        chex.assert_trees_all_close(difference, np.zeros(B), atol=1e-12)


EXPLICIT = [name for name, entry in LEARNERS.items() if entry.apply.__module__.startswith("ico")]


@pytest.mark.parametrize("name", EXPLICIT)
def test_wrong_prompts_are_refused_by_name(name, annotations_off):
    prompt = draw(name)
    for field, change in (
        ("x", prompt.x[0]),
        ("y", prompt.y[..., 0]),
        ("x_query", prompt.x_query[0]),
        ("y", prompt.y[:, :-1]),
        ("y", prompt.y[:-1]),
        ("x_query", prompt.x_query[:1]),
        ("x_query", prompt.x_query[..., :-1]),
    ):
        with pytest.raises(ValueError, match=rf"\bprompt\.{field}\b"):
            call(name, params_of(name), prompt._replace(**{field: change}))


@pytest.mark.parametrize("name", EXPLICIT)
def test_wrong_parameters_are_refused_by_name(name, annotations_off):
    """Of a shape that no parameter has, or missing."""
    params, prompt = dict(params_of(name)), draw(name)
    for parameter, value in params.items():
        with pytest.raises(ValueError, match=rf"\b{parameter}\b"):
            call(name, params | {parameter: jnp.ones((2, 3, 4)) * value.ravel()[0]}, prompt)
    for parameter in {"rate", "gamma", "damping", "noise_variance"} & set(params):
        missing = {n: a for n, a in params.items() if n != parameter}
        with pytest.raises(ValueError, match=rf"\b{parameter}\b"):
            call(name, missing, prompt)
