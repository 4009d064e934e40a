"""What every learner of `ico.algorithms` owes, over the registry in tests/conformance/learners.py.

An exported learner without an entry there fails the first test.

Dimension key: B tasks, N context pairs, D inputs, K outputs, Q queries, L layers or steps.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

import ico
from ico import algorithms as al
from ico.algorithms import constructions
from ico.types import Episode
from tests.conformance.learners import (
    HELPERS,
    LEARNERS,
    B,
    D,
    L,
    N,
    Q,
    call,
    draw,
    params_of,
)

each_learner = parameterized.named_parameters((name, name) for name in LEARNERS)


@functools.cache
def compiled(name):
    """The learner at its parameters, as a compiled function of prompts."""
    predict = jax.jit(functools.partial(call, name))
    return functools.partial(predict, params_of(name))


def test_every_exported_learner_has_an_entry():
    functions = {n for n in al.__all__ if inspect.isfunction(getattr(al, n))}
    public = (n for n in dir(constructions) if inspect.isfunction(getattr(constructions, n)))
    functions |= {f"constructions.{n}" for n in public if not n.startswith("_")}
    named = {name.split(",")[0] for name in LEARNERS} | HELPERS
    assert not (functions - named), (
        f"{sorted(functions - named)} is exported from ico.algorithms: add an entry to LEARNERS in "
        "tests/conformance/learners.py, or to HELPERS there if it is no learner"
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
    def test_degenerate_contexts_are_answered_by_numbers(self, name):
        """Zeros, equal inputs, and no pairs at all, unless a learner refuses them by name."""
        predict, prompt = compiled(name), draw(name)
        zeros = prompt._replace(x=0 * prompt.x, y=0 * prompt.y)
        equal = prompt._replace(x=jnp.broadcast_to(prompt.x[:, :1], prompt.x.shape))
        none = prompt._replace(x=prompt.x[:, :0], y=prompt.y[:, :0])
        chex.assert_tree_all_finite((predict(zeros), predict(equal)))
        try:
            chex.assert_tree_all_finite(predict(none))
        except ValueError as error:
            assert "more pairs than inputs" in str(error)

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
        for name in learners:
            steps = L if LEARNERS[name].every_step else 1
            chex.assert_shape(result.by_step(name), (steps, B))
        equal = {1: ("implicit_weights", "implicit_model"), 2: ("gd", "constructions.gd")}
        difference = result.sensitivity_difference[equal[num_outputs]]
        chex.assert_trees_all_close(difference, np.zeros(B), atol=1e-12)


def test_no_context_is_answered_by_a_finite_number():
    """No pairs, zeros and equal inputs: never NaN, where fewer pairs than inputs are allowed."""
    for name, entry in LEARNERS.items():
        prompt = draw(name)
        contexts = {
            "none": prompt._replace(x=prompt.x[:, :0], y=prompt.y[:, :0]),
            "zeros": prompt._replace(x=0 * prompt.x, y=0 * prompt.y),
            "equal": prompt._replace(x=0 * prompt.x + prompt.x[:, :1]),
        }
        if entry.apply is al.adaptive_ridge:
            del contexts["none"]  # it refuses fewer pairs than inputs
        for context, given in contexts.items():
            found = call(name, params_of(name), given)
            assert np.isfinite(found).all(), (name, context)


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
