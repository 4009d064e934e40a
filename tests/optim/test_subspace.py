"""Trainable weight averaging: projection, both forms, quantised rows, and memory."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import optim

N, D = 5, 70_000


@pytest.fixture(scope="module")
def checkpoints():
    return jnp.asarray(np.random.default_rng(0).normal(size=(N, 12)), jnp.float32)


def test_conference_form_is_the_projected_gradient(checkpoints):
    """SGD with momentum on coefficients: steps of `P' P g`, P from NumPy; it stays in the span."""
    q, _ = np.linalg.qr(np.float64(checkpoints).T)
    optimizer = optim.subspace(optax.sgd(0.1, momentum=0.9), optim.orthonormal_span(checkpoints))
    params = {"a": jnp.zeros((2, 3)), "b": jnp.zeros(6)}
    state, trace = optimizer.init(params), 0.0
    update = jax.jit(optimizer.update)
    for step in range(3):
        gradient = np.random.default_rng(step).normal(size=12).astype(np.float32)
        tree = {"a": gradient[:6].reshape(2, 3), "b": gradient[6:]}
        updates, state = update(tree, state, params)
        trace = 0.9 * trace + q @ (q.T @ gradient)
        found = np.concatenate([updates["a"].ravel(), updates["b"]])
        np.testing.assert_allclose(found, -0.1 * trace, atol=1e-5)


def test_equal_checkpoints_span_what_they_span(checkpoints):
    doubled = jnp.concatenate([checkpoints, checkpoints])
    once, twice = optim.orthonormal_span(checkpoints), optim.orthonormal_span(doubled)
    projected = [span.rows.T @ span.rows for span in (once, twice)]
    np.testing.assert_allclose(projected[1], projected[0], atol=1e-5)
    np.testing.assert_allclose(np.trace(projected[1]), N, atol=1e-4)


def test_journal_form_is_training_of_coefficients(checkpoints):
    """The gradient by X is that of autodiff through `mean + X rows`; AdamW on it is AdamW."""
    span, target = optim.centred_span(checkpoints), jnp.arange(12.0)

    def loss(w):
        return jnp.sum(jnp.cosh(w - target) / 100)

    optimizer, plain = optim.subspace(optax.adamw(0.1), span), optax.adamw(0.1)
    w, x = span.center, jnp.zeros(N)
    state, plain_state = optimizer.init(w), plain.init(x)
    for _ in range(3):
        updates, state = optimizer.update(jax.grad(loss)(w), state, w)
        w = w + updates
        gradient = jax.grad(lambda x: loss(span.point(x)))(x)
        updates, plain_state = plain.update(gradient, plain_state, x)
        x = x + updates
    chex.assert_trees_all_close((state.x, w), (x, span.point(x)), atol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(span.rows, axis=1), 1, rtol=1e-5)


@pytest.mark.parametrize("bits", [8, 4])
def test_quantised_rows_are_near_and_small(bits):
    """Both products agree with the dequantised matrix; D is no multiple of anything."""
    rows = jnp.asarray(np.random.default_rng(1).normal(size=(3, D + 1)), jnp.float32)
    rows = rows.at[2].set(0)
    exact, quantised = (
        optim.Span(r, jnp.zeros(D + 1)) for r in (rows, optim.quantise_rows(rows, bits))
    )
    assert quantised.rows.codes.nbytes <= 3 * (D + 2**15) * bits / 8
    dense = np.stack([quantised.combination(e) for e in jnp.eye(3)])
    level = np.abs(rows).max(1, keepdims=True) / (2 ** (bits - 1) - 1)
    assert (np.abs(dense - rows) <= level / 2 + 1e-6).all()
    vector = jnp.asarray(np.random.default_rng(2).normal(size=D + 1), jnp.float32)
    np.testing.assert_allclose(quantised.coefficients(vector), dense @ vector, rtol=1e-3, atol=0.05)
    x = jnp.array([1.0, -2, 3])
    np.testing.assert_allclose(quantised.combination(x), x @ dense, atol=1e-4)
    assert exact.point(x).shape == quantised.point(x).shape


def test_under_vmap_each_seed_has_its_own_span(checkpoints):
    two = jnp.stack([checkpoints, checkpoints[:, ::-1]])

    def step(checkpoints, gradient):
        optimizer = optim.subspace(optax.sgd(1.0), optim.orthonormal_span(checkpoints))
        return optimizer.update(gradient, optimizer.init(gradient))[0]

    gradients = jnp.ones((2, 12))
    both = jax.vmap(step)(two, gradients)
    chex.assert_trees_all_close(both[1], step(two[1], gradients[1]), atol=1e-5)


def test_other_sizes_are_refused(checkpoints):
    optimizer = optim.subspace(optax.sgd(1.0), optim.orthonormal_span(checkpoints))
    with pytest.raises(ValueError, match="12 parameters, not of 3"):
        optimizer.init(jnp.zeros(3))
    with pytest.raises(ValueError, match="8 or 4"):
        optim.quantise_rows(checkpoints, 3)
