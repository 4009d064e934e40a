"""The delta rule: one step of gradient descent per position, and accurate in float32."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.layers import delta_rule, linear_attention, mesa
from ico.layers._triangular import unit_lower_inverse
from tests.layers.conftest import relative, sequences


def arguments(T, D, V, dtype=np.float64):
    q, k, v, f = sequences(T, D, V, dtype=dtype)
    rng = np.random.default_rng(5)
    beta = jnp.asarray(rng.uniform(size=f.shape), dtype)
    state = jnp.asarray(rng.normal(size=(2, 2, V, D)), dtype)
    return q, k, v, beta, f, state


def run(form, args, chunk_size=8):
    """Output, state and all gradients."""

    def layer(q, k, v, beta, f, state):
        options = {"form": form, "chunk_size": chunk_size, "return_state": True}
        return delta_rule(q, k, v, beta=beta, forget=f, initial_state=state, **options)

    @jax.jit
    def both(*args):
        out, pull = jax.vjp(layer, *args)
        return out, pull(jax.tree.map(lambda a: jnp.cos(3 * a), out))

    return jax.tree.leaves(both(*args))


def test_each_position_makes_one_gradient_step(x64):
    """On 1/2 |v - S k|^2 at what is left of the last S."""
    q, k, v, beta, f, state = arguments(5, 3, 2)
    o, last = delta_rule(
        q, k, v, beta=beta, forget=f, initial_state=state, form="recurrent", return_state=True
    )
    s = state[0, 1]
    for t in range(5):
        s = f[0, t, 1] * s
        loss = jax.grad(lambda s, t=t: 0.5 * jnp.sum((v[0, t, 1] - s @ k[0, t, 1]) ** 2))
        s = s - beta[0, t, 1] * loss(s)
        np.testing.assert_allclose(o[0, t, 1], s @ q[0, t, 1], atol=1e-13)
    np.testing.assert_allclose(last[0, 1], s, atol=1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("chunk_size", [7, 64])
def test_accuracy_in_float32(chunk_size):
    args = arguments(300, 32, 24, np.float32)
    ours = run("chunked", args, chunk_size)
    with jax.enable_x64(True):
        exact = run("recurrent", [jnp.asarray(a, jnp.float64) for a in args])
    for a, b in zip(ours[:2], exact[:2], strict=True):
        assert relative(a, b) < 2e-6
    for a, b in zip(ours[2:], exact[2:], strict=True):
        assert relative(a, b) < 2e-5


def test_gradients_of_an_ended_sequence_are_finite():
    """Taken to the end of the chunk, the decay of a sequence that ended earlier would overflow."""
    q, k, v, _ = sequences(64, 4, 4, dtype=np.float32)
    f = jnp.full((2, 64, 2), 0.1)
    segments = jnp.asarray([[0] * 60 + [1] * 4] * 2)
    for layer in (
        lambda f: delta_rule(q, k, v, beta=f, forget=f, segment_ids=segments),
        lambda f: linear_attention(q, k, v, forget=f, segment_ids=segments),
        lambda f: mesa(q, k, v, lam=jnp.ones(2), forget=f, segment_ids=segments, chunk_size=4),
    ):
        gradient = jax.jit(jax.grad(lambda f, layer=layer: jnp.sum(jnp.sin(layer(f)))))(f)
        chex.assert_tree_all_finite(gradient)


def test_equal_keys_do_not_blow_up():
    """The triangular system's powers are binomials then."""
    k = jnp.zeros((1, 512, 1, 8)).at[..., 0].set(1.0)
    v = jax.random.normal(jax.random.key(0), (1, 512, 1, 4))
    o = delta_rule(k, k, v, beta=jnp.ones((1, 512, 1)))
    np.testing.assert_allclose(o, v, atol=1e-5)  # replaced at every position


@pytest.mark.parametrize("C", [1, 5, 16, 40])
def test_unit_lower_inverse(C, x64):
    rng = np.random.default_rng(0)
    lower = jnp.asarray(rng.normal(size=(3, C, C)) / np.sqrt(C))
    plain = lambda a: jnp.linalg.inv(jnp.eye(C)[None] + jnp.tril(a, -1))  # noqa: E731
    np.testing.assert_allclose(unit_lower_inverse(lower), plain(lower), atol=1e-12)
    ours, theirs = (
        jax.grad(lambda a, f=f: jnp.sum(jnp.sin(f(a))))(lower) for f in (unit_lower_inverse, plain)
    )
    np.testing.assert_allclose(ours, theirs, atol=1e-11)
