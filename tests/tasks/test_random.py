"""The random numbers under all synthetic data: their distribution, range and independence."""

import functools
import math

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings

from ico.tasks import _random
from ico.tasks._random import normal, uniform

N = 2**18
KEYS = [jax.random.key(0), jax.random.key(2**31), jax.random.key(7, impl="rbg")]
draw_uniform = jax.jit(uniform, static_argnums=(1, 2, 3))
draw_normal = jax.jit(normal, static_argnums=1)


@pytest.mark.parametrize("key", KEYS, ids=["threefry", "large", "rbg"])
@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.5, 0.5), (0.1, 0.5), (0.0, math.pi)])
def test_uniform_follows_its_distribution(key, low, high, follows):
    x = np.asarray(draw_uniform(key, (N,), low, high))
    assert x.dtype == np.float32
    assert low <= x.min() and x.max() < high
    follows(x, "uniform", (low, high - low))


@pytest.mark.parametrize("key", KEYS, ids=["threefry", "large", "rbg"])
def test_normal_follows_its_distribution(key, follows):
    x = np.asarray(draw_normal(key, (N,)), np.float64)
    assert np.isfinite(x).all()
    follows(x, "norm")
    # Kolmogorov-Smirnov sees little of the tails: moments. Var x^k = (2k-1)!! - ((k-1)!!)^2.
    for power, moment, square in ((1, 0, 1), (2, 1, 3), (3, 0, 15), (4, 3, 105)):
        error = math.sqrt((square - moment**2) / N)
        assert abs(np.mean(x**power) - moment) < 4 * error, power


@pytest.mark.parametrize(
    "draw", [lambda k: draw_uniform(k, (N,), 0.0, 1.0), lambda k: draw_normal(k, (N,))]
)
@pytest.mark.parametrize("key", KEYS, ids=["threefry", "large", "rbg"])
def test_values_repeat_as_often_as_chance_has_it(draw, key):
    """N draws out of 2^23 values: a Poisson number of equal pairs."""
    counts = np.unique(np.asarray(draw(key)), return_counts=True)[1]
    pairs, expected = (counts * (counts - 1) // 2).sum(), N * (N - 1) / 2 / 2**23
    assert abs(pairs - expected) < 5 * math.sqrt(expected)


def test_extreme_bits_stay_in_range_and_finite():
    """Whatever the generator gives, even what no test will ever draw."""
    bits = jnp.array([0, 1, 511, 512, 2**31 - 1, 2**31, 2**32 - 512, 2**32 - 1], jnp.uint32)
    unit = np.asarray(_random._bits_to_unit(bits))
    assert unit.min() == 0.0 and unit.max() == 1 - 2.0**-23
    assert (np.diff(unit) >= 0).all()


@pytest.mark.parametrize(("low", "high"), [(0.1, 0.5), (-5.0, 5.0), (-1.0, 1.0), (0.0, math.pi)])
def test_extreme_draws_stay_in_range(low, high, monkeypatch):
    for word in (0, 2**32 - 1):
        monkeypatch.setattr(_random, "_bits", lambda key, n, w=word: jnp.full(n, w, jnp.uint32))
        assert low <= float(uniform(jax.random.key(0), (1,), low, high)[0]) < np.float32(high)


def test_normal_is_finite_and_symmetric_to_the_last_bit(monkeypatch):
    words = np.random.default_rng(0).integers(0, 2**32, 4096, dtype=np.uint32)
    words = np.concatenate([words, np.array([0, 2**31], np.uint32)])
    draws = []
    for bits in (words, ~words):
        monkeypatch.setattr(_random, "_bits", lambda key, n, bits=bits: jnp.asarray(bits))
        draws.append(np.asarray(normal(jax.random.key(0), bits.shape)))
    assert np.isfinite(draws[0]).all() and np.abs(draws[0]).max() > 5
    np.testing.assert_array_equal(draws[0], -draws[1])


def test_one_draw_has_no_structure(uncorrelated):
    """Neighbours, and the two halves (a block of the cipher gives one number to each)."""
    for key in KEYS:
        x = np.asarray(draw_uniform(key, (N,), 0.0, 1.0))
        uncorrelated(x[1:], x[:-1])
        uncorrelated(x[: N // 2], x[N // 2 :])
        uncorrelated((x[: N // 2] - 0.5) ** 2, (x[N // 2 :] - 0.5) ** 2)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_different_keys_are_independent(impl, uncorrelated):
    key = jax.random.key(3, impl=impl)
    keys = [
        key,
        jax.random.key(4, impl=impl),
        *jax.random.split(key, 3),
        jax.random.fold_in(key, 9),
    ]
    draws = [np.asarray(draw_uniform(k, (N // 4,), 0.0, 1.0)) for k in keys]
    for i, one in enumerate(draws):
        for other in draws[:i]:
            uncorrelated(one, other)
            uncorrelated((one - 0.5) ** 2, (other - 0.5) ** 2)


@settings(max_examples=4)
@given(st.integers(0, 2**31), st.lists(st.integers(0, 4), max_size=3).map(tuple))
@example(seed=0, shape=())
@example(seed=0, shape=(3,))
@example(seed=0, shape=(0, 2))
def test_same_key_same_numbers_of_any_shape(seed, shape):
    key = jax.random.key(seed)
    for draw in (uniform, normal):
        x = draw(key, shape)
        assert x.shape == shape and x.dtype == jnp.float32
        np.testing.assert_array_equal(x, draw(key, shape))
        np.testing.assert_array_equal(np.ravel(x), draw(key, (math.prod(shape),)))


@pytest.mark.parametrize("draw", [uniform, normal])
@pytest.mark.parametrize("shape", [(8,), (3, 5)])
def test_vmap_draws_what_single_calls_draw(draw, shape):
    keys = jax.random.split(jax.random.key(5), 4)
    batched = jax.jit(jax.vmap(functools.partial(draw, shape=shape)))(keys)
    for one, key in zip(batched, keys, strict=True):
        np.testing.assert_array_equal(one, draw(key, shape))


@pytest.mark.parametrize("draw", [uniform, normal])
def test_vmap_over_rbg_keys_draws_different_numbers(draw, uncorrelated):
    """JAX's own rbg gives others under vmap than alone, but no two the same."""
    keys = jax.random.split(jax.random.key(5, impl="rbg"), 3)
    x = np.asarray(jax.vmap(lambda key: draw(key, (N // 16,)))(keys))
    for i, j in ((0, 1), (0, 2), (1, 2)):
        uncorrelated(x[i], x[j])


def test_sixty_four_bit_mode_changes_nothing():
    key = jax.random.key(6)
    expected = [np.asarray(draw(key, (7,))) for draw in (uniform, normal)]
    with jax.enable_x64(True):
        for draw, before in zip((uniform, normal), expected, strict=True):
            after = draw(key, (7,))
            assert after.dtype == jnp.float32
            np.testing.assert_array_equal(after, before)
