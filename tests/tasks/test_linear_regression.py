"""Linear regression tasks: the distribution the paper's code draws, and nothing hidden in it."""

import dataclasses

import chex
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from ico.tasks import LinearRegression, linear_regression

KEY = jax.random.key(0)
RESCALED = ("normal", "exponential", "laplace")
sample = jax.jit(linear_regression, static_argnums=1)


@given(
    st.lists(st.integers(1, 7), min_size=5, max_size=5),
    st.sampled_from(["uniform", *RESCALED]),
    st.booleans(),
)
def test_shapes(sizes, inputs, distracted):
    B, D, K, N, Q = sizes
    config = LinearRegression(B, D, K, N, Q, inputs=inputs, num_distractors=N if distracted else 0)
    episode = jax.eval_shape(lambda key: linear_regression(key, config), KEY)
    shapes = [leaf.shape for leaf in jax.tree.leaves(episode)]
    assert shapes == [(B, N, D), (B, N, K), (B, Q, D), (B, Q, K)]
    assert {leaf.dtype for leaf in jax.tree.leaves(episode)} == {jnp.dtype("float32")}


def test_the_default_is_the_papers_task(averages, follows):
    """d = N = 10, x ~ U(-1/2, 1/2), one query, W ~ N(0, 1): E y^2 = 10/12, half of it 0.4167."""
    prompt, y_query = jax.device_get(sample(KEY, LinearRegression(batch_size=20_000)))
    assert prompt.x.shape == (20_000, 10, 10) and y_query.shape == (20_000, 1, 1)
    for x in (prompt.x, prompt.x_query):
        assert -0.5 <= x.min() < -0.499 and 0.499 < x.max() < 0.5
        follows(x, "uniform", (-0.5, 1))
        averages(x.mean((1, 2)), 0)
        averages((x**2).mean((1, 2)), 1 / 12)
        averages((x**4).mean((1, 2)), 1 / 80)
        # Coordinates, and points of a task, are independent of each other.
        averages(x[:, 0, 0] * x[:, 0, 1], 0)
    averages(prompt.x[:, 0, 0] * prompt.x[:, 1, 0], 0)
    averages(prompt.x[:, 0, 0] * prompt.x_query[:, 0, 0], 0)
    for y in (prompt.y, y_query):
        averages(y.mean((1, 2)), 0)
        averages((y**2).mean((1, 2)), 10 / 12)
    averages(0.5 * y_query[:, 0, 0] ** 2, 0.41667)


@pytest.mark.parametrize("inputs", ["uniform", *RESCALED])
def test_labels_are_linear_with_normal_weights(inputs, follows, uncorrelated):
    """The W that fits the context explains the queries; over tasks it is N(0, weight_scale^2)."""
    config = LinearRegression(3000, 4, 2, 12, 3, inputs=inputs, weight_scale=1.5)
    prompt, y_query = jax.device_get(sample(KEY, config))
    w_BDK = np.linalg.pinv(prompt.x.astype(np.float64)) @ prompt.y
    np.testing.assert_allclose(prompt.x_query @ w_BDK, y_query, atol=1e-5)
    follows(w_BDK, "norm", (0, 1.5))
    for one, other in ((w_BDK[:, 0, 0], w_BDK[:, 1, 0]), (w_BDK[:, 0, 0], w_BDK[:, 0, 1])):
        uncorrelated(one, other)
    uncorrelated(w_BDK[1:], w_BDK[:-1])
    uncorrelated(w_BDK[:, :, 0], prompt.x[:, 0])


@pytest.mark.parametrize("inputs", RESCALED)
def test_rescaled_inputs_have_the_range_as_their_norm(inputs):
    prompt = jax.device_get(
        sample(KEY, LinearRegression(100, inputs=inputs, input_range=1.7))
    ).prompt
    np.testing.assert_allclose(np.sqrt((prompt.x**2).sum((1, 2))), 1.7, rtol=1e-5)


@pytest.mark.parametrize("inputs", RESCALED)
def test_rescaled_inputs_keep_their_distribution(inputs, follows):
    """By ratios of two inputs, which no scale changes: queries share the scale of their context."""
    config = LinearRegression(20_000, 2, 1, 2, 1, inputs=inputs)
    prompt = jax.device_get(sample(jax.random.key(1), config)).prompt
    a, b, query = prompt.x[:, 0, 0], prompt.x[:, 1, 1], prompt.x_query[:, 0, 0]
    for one, other in ((a, b), (query, a)):
        if inputs == "normal":
            follows(one / other, "cauchy")
        else:  # magnitudes are exponential, so their share is uniform
            follows(np.abs(one) / (np.abs(one) + np.abs(other)), "uniform")
    if inputs == "exponential":
        assert min(prompt.x.min(), query.min()) >= 0
    else:
        assert abs(np.sign(a).mean()) < 4 / np.sqrt(a.size)
        assert abs((np.sign(a) * np.sign(query)).mean()) < 4 / np.sqrt(a.size)


@pytest.mark.parametrize(
    ("inputs", "square"), [("normal", 1.0), ("exponential", 2.0), ("laplace", 2.0)]
)
def test_raw_moments(inputs, square, averages):
    """With 40 x 40 inputs the norm is its expectation but for a percent: mean 1 of exponentials."""
    config = LinearRegression(400, 40, 1, 40, 40, inputs=inputs, input_range=40 * square**0.5)
    x = jax.device_get(sample(KEY, config)).prompt.x_query.astype(np.float64)
    mean = 1.0 if inputs == "exponential" else 0.0
    assert abs(x.mean() - mean) < 0.01
    assert abs((x**2).mean() - square) < 0.02 * square


def test_scales_are_scales():
    base = LinearRegression(50, 4, 2, 6, 2)
    one = sample(KEY, base)
    wide = sample(KEY, dataclasses.replace(base, input_range=2.0))
    strong = sample(KEY, dataclasses.replace(base, weight_scale=4.0))
    chex.assert_trees_all_equal(jax.tree.map(lambda a: 2 * a, one), wide)
    np.testing.assert_array_equal(one.prompt.x, strong.prompt.x)
    np.testing.assert_array_equal(4 * one.prompt.y, strong.prompt.y)
    np.testing.assert_array_equal(4 * one.y_query, strong.y_query)


@pytest.mark.parametrize("inputs", ["uniform", "normal"])
@pytest.mark.parametrize("field", ["input_range", "weight_scale"])
def test_a_sweep_is_one_vmap(inputs, field):
    config = LinearRegression(5, 3, 1, 4, inputs=inputs)
    values = jnp.array([0.5, 1.0, 3.0])
    swept = jax.jit(
        jax.vmap(lambda v: linear_regression(KEY, dataclasses.replace(config, **{field: v})))
    )(values)
    for i, value in enumerate(values):
        single = sample(KEY, dataclasses.replace(config, **{field: float(value)}))
        chex.assert_trees_all_close(jax.tree.map(lambda a, i=i: a[i], swept), single, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 8])
@pytest.mark.parametrize("num_outputs", [1, 2])
def test_distractors_replace_this_many_labels(count, num_outputs, follows):
    clean_config = LinearRegression(4000, 3, num_outputs, 8, 2)
    noisy_config = dataclasses.replace(clean_config, num_distractors=count)
    clean, noisy = (jax.device_get(sample(KEY, c)) for c in (clean_config, noisy_config))
    np.testing.assert_array_equal(noisy.prompt.x, clean.prompt.x)
    np.testing.assert_array_equal(noisy.prompt.x_query, clean.prompt.x_query)
    np.testing.assert_array_equal(noisy.y_query, clean.y_query)
    changed_BNK = noisy.prompt.y != clean.prompt.y
    changed_BN = changed_BNK.any(-1)
    assert (changed_BNK.all(-1) == changed_BN).all()
    assert (changed_BN.sum(1) == count).all()
    follows(noisy.prompt.y[changed_BNK], "norm")
    # Every place, and every pair of places, is as likely as any other.
    share, B = count / 8, len(changed_BN)
    assert np.abs(changed_BN.mean(0) - share).max() <= 4.5 * np.sqrt(share * (1 - share) / B)
    pair = count * (count - 1) / 56
    both = (changed_BN[:, :, None] & changed_BN[:, None]).mean(0)[~np.eye(8, dtype=bool)]
    assert np.abs(both - pair).max() <= 4.5 * np.sqrt(pair * (1 - pair) / B)


def test_same_key_same_batch_and_other_key_other_batch():
    config = LinearRegression(4, num_distractors=2)
    one, again, other = (sample(jax.random.key(s), config) for s in (1, 1, 2))
    chex.assert_trees_all_equal(one, again)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert (a != b).all()


def test_rbg_keys_work(averages):
    episode = jax.device_get(sample(jax.random.key(0, impl="rbg"), LinearRegression(5000)))
    averages((episode.prompt.x**2).mean((1, 2)), 1 / 12)
    averages(episode.y_query[:, 0, 0] ** 2, 10 / 12)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        (name, 0)
        for name in ("batch_size", "num_inputs", "num_outputs", "num_context", "num_queries")
    ]
    + [("num_context", -1), ("num_distractors", -1), ("num_distractors", 11)],
)
def test_config_names_the_field_that_is_wrong(field, value):
    with pytest.raises(ValueError, match=f"{field} must .*not {value}"):
        LinearRegression(**{field: value})


def test_unknown_inputs():
    with pytest.raises(ValueError, match="inputs must be uniform.*not 'cauchy'"):
        linear_regression(KEY, LinearRegression(inputs="cauchy"))
