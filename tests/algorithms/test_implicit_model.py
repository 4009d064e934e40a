"""The theorem as code: extracted models are the forward pass of any linear transformer.

The oracle is attention over tokens, `ico.models.LinearTransformer`, in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import algorithms as al
from ico import models
from ico.types import Prompt, Statistics

B, N, D, Q = 4, 7, 3, 2
# Compiled whole: one operation at a time they are dozens of small programs.
statistics_of = jax.jit(al.statistics)
implicit_model, implicit_weights = map(jax.jit, (al.implicit_model, al.implicit_weights))
descent_reading = jax.jit(al.descent_reading)
diagonal_heads = jax.jit(al.diagonal_heads, static_argnums=1)
diagonal_weights = jax.jit(al.diagonal_weights, static_argnames="all_layers")


def prompt(seed=0):
    rng = np.random.default_rng(seed)
    shapes = (B, N, D), (B, N, 1), (B, Q, D)
    return Prompt(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))


def full(layers, heads, scale, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(jnp.asarray(scale * rng.normal(size=(layers, heads, D + 1, D + 1))) for _ in "pq")


def attention(p, q):
    """A LinearTransformer with these P and Q, and its parameters."""
    layers, heads, E, _ = p.shape
    eye = np.broadcast_to(np.eye(E), (heads, E, E))
    params = {}
    for i in range(layers):
        p_T = np.swapaxes(np.asarray(p)[i], -1, -2)
        weights = {"key": np.asarray(q)[i], "query": eye, "out": eye, "value": p_T}
        params[f"block_{i}"] = {"attention": weights}
    model = models.LinearTransformer(num_inputs=D, num_layers=layers, num_heads=heads)
    apply = jax.jit(lambda given: model.apply({"params": params}, given, all_layers=True))
    return apply, params


def predictions(w, prompt):
    return np.einsum("bqd,lbd->lbq", prompt.x_query, w)[..., None]


def close(ours, theirs, tolerance=1e-10):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    scale = max(1.0, np.abs(theirs).max())
    assert np.abs(ours - theirs).max() <= tolerance * scale


CASES = [(1, 1, 0.3), (2, 3, 0.2), (5, 2, 0.06)]


@pytest.mark.parametrize(("layers", "heads", "scale"), CASES)
def test_extracted_model_is_the_forward_pass(layers, heads, scale, x64):
    given, (p, q) = prompt(), full(layers, heads, scale)
    apply, params = attention(p, q)
    expected = apply(given)
    found = implicit_model(p, q, statistics_of(given))
    close(predictions(found.w[1:], given), expected)
    close(implicit_weights(p, q, statistics_of(given)), found.w[-1])
    stacked = models.stacked_products(jax.tree.map(jnp.asarray, params))
    for ours, theirs in zip(stacked, (p, q), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("layers", "heads", "scale"), CASES)
def test_every_token_is_the_model_applied_to_its_start(layers, heads, scale, x64):
    """x_i = M x_i0 + y_i0 u and y_i = a y_i0 - <w, x_i0>, for context and query tokens."""
    given, (p, q) = prompt(), full(layers, heads, scale)
    context = np.concatenate([given.x, given.y], -1)
    queries = np.concatenate([given.x_query, np.zeros((B, Q, 1))], -1)
    tokens = np.concatenate([context, queries], 1)
    start, found = tokens, implicit_model(p, q, statistics_of(given))
    p, q = np.asarray(p), np.asarray(q)
    for layer in range(layers + 1):
        M, u, a, w = (np.asarray(leaf)[layer] for leaf in found)
        x0, y0 = start[..., :D], start[..., D:]
        close(np.einsum("bde,bne->bnd", M, x0) + y0 * u[:, None], tokens[..., :D])
        close(a[:, None] * y0[..., 0] - np.einsum("bd,bnd->bn", w, x0), tokens[..., D])
        if layer < layers:  # the layer as the paper writes it, by a loop over tokens
            gram = np.einsum("bnd,bne->bde", tokens[:, :N], tokens[:, :N])
            tokens = tokens + sum(
                np.einsum("de,bef,fg,bng->bnd", p[layer, h], gram, q[layer, h], tokens)
                for h in range(heads)
            )


@pytest.mark.parametrize(("layers", "heads", "scale"), CASES)
def test_reading_adds_up(layers, heads, scale, x64):
    given, (p, q) = prompt(), full(layers, heads, scale)
    statistics = statistics_of(given)
    found = implicit_model(p, q, statistics)
    r = descent_reading(p, q, statistics, found)
    r, found = (type(tree)(*map(np.asarray, tree)) for tree in (r, found))

    @jax.jit
    @jax.grad
    def gradient(w, a):
        residual = a[:, None] * given.y[..., 0] - jnp.einsum("bd,bnd->bn", w, given.x)
        return 0.5 * jnp.sum(residual**2)

    for layer in range(layers):
        descent = np.einsum("bde,be->bd", r.preconditioner[layer], r.gradient[layer])
        step = r.rescaling[layer][:, None] * found.w[layer] - descent
        close(step + r.momentum[layer] + r.cross[layer], found.w[layer + 1])
        close(r.gradient[layer], gradient(found.w[layer], found.a[layer]))


def scalars(layers, seed=0, scale=0.05):
    rng = np.random.default_rng(seed)
    return al.DiagonalScalars(*(jnp.asarray(scale * rng.normal(size=layers)) for _ in range(4)))


def test_a_diagonal_layer_is_gradient_descent_with_rescaling_and_momentum(x64):
    """Nothing crosses, and momentum runs along M^T u, what earlier layers wrote into inputs."""
    given, chosen = prompt(), scalars(3)
    statistics, (p, q) = statistics_of(given), diagonal_heads(chosen, D)
    found = implicit_model(p, q, statistics)
    r = descent_reading(p, q, statistics, found)
    r, found = (type(tree)(*map(np.asarray, tree)) for tree in (r, found))
    close(r.cross, np.zeros_like(r.cross))
    close(r.momentum[0], np.zeros((B, D)))  # nothing came earlier
    assert np.abs(r.momentum[1:]).min() > 0
    along = np.einsum("lbed,lbe->lbd", found.M[:-1], found.u[:-1])
    close(np.cross(along, r.momentum), np.zeros_like(along))
    # Preconditioned by M^T M: positive where the layer descends.
    for layer in range(3):
        matrix = np.einsum("bed,bef->bdf", found.M[layer], found.M[layer])
        close(r.preconditioner[layer], -np.asarray(chosen.yx)[layer] * matrix)


def test_without_cross_blocks_the_reading_is_the_whole_layer(x64):
    """Free P and Q, but that q_yx, p_yx and p_xy, q_xy are zero: descent, momentum, rescaling."""
    given, (p, q) = prompt(), full(3, 2, 0.1)
    kept = np.ones((D + 1, D + 1))
    kept[-1, :-1] = kept[:-1, -1] = 0
    p, q = (np.asarray(a) * kept for a in (p, q))
    statistics = statistics_of(given)
    r = descent_reading(p, q, statistics, implicit_model(p, q, statistics))
    close(r.cross, np.zeros(r.cross.shape))
    assert np.abs(r.momentum).min(axis=(1, 2))[1:].min() > 0


def spectral(statistics):
    """Statistics in the eigenvectors of sum x x^T, and these."""
    values, turn = np.linalg.eigh(statistics.xx)
    xy = np.einsum("bde,bd->be", turn, statistics.xy)
    return Statistics(jnp.asarray(values), jnp.asarray(xy), statistics.yy), turn


@pytest.mark.parametrize("layers", [1, 2, 3, 7])
@pytest.mark.parametrize("basis", ["inputs", "eigenvectors"])
def test_closed_form_on_statistics_is_attention(layers, basis, x64):
    given, chosen = prompt(), scalars(layers, scale=0.02)
    expected = attention(*diagonal_heads(chosen, D))[0](given)
    statistics = statistics_of(given)
    turn = np.broadcast_to(np.eye(D), (B, D, D))
    if basis == "eigenvectors":
        statistics, turn = spectral(statistics)
    w = diagonal_weights(chosen, statistics, all_layers=True)
    close(predictions(np.einsum("bde,lbe->lbd", turn, w), given), expected)
    close(diagonal_weights(chosen, statistics), np.asarray(w)[-1])


def test_gradients_of_both_bases_agree(x64):
    statistics = statistics_of(prompt())

    def loss(chosen, statistics):
        return jnp.sum(diagonal_weights(chosen, statistics) ** 2)

    slope = jax.jit(jax.grad(loss))
    ours, theirs = (slope(scalars(3, scale=0.02), s) for s in (spectral(statistics)[0], statistics))
    jax.tree.map(close, ours, theirs)


def test_scalars_of_heads(x64):
    """One head binds w_xx w_yy = w_xy w_yx; the two-headed form of any scalars gives them back."""
    rng = np.random.default_rng(0)
    one = al.diagonal_scalars(*(jnp.asarray(rng.normal(size=(4, 1))) for _ in range(4)))
    np.testing.assert_allclose(one.xx * one.yy, one.xy * one.yx, rtol=1e-12)
    two = al.diagonal_scalars(*(jnp.asarray(rng.normal(size=(4, 2))) for _ in range(4)))
    assert float(jnp.abs(two.xx * two.yy - two.xy * two.yx).min()) > 1e-3
    p, q = diagonal_heads(two, D)
    np.testing.assert_allclose((p[:, :, 0, 0] * q[:, :, 0, 0]).sum(1), two.xx)
    np.testing.assert_allclose((p[:, :, 0, 0] * q[:, :, D, D]).sum(1), two.xy)
    np.testing.assert_allclose((p[:, :, D, D] * q[:, :, 0, 0]).sum(1), two.yx)
    np.testing.assert_allclose((p[:, :, D, D] * q[:, :, D, D]).sum(1), two.yy)


def test_shapes_that_do_not_fit():
    statistics = statistics_of(prompt())
    p, q = full(2, 1, 0.1)
    with pytest.raises(ValueError, match=r"must be \[L, H, 4, 4\]"):
        implicit_model(p[..., :3, :3], q[..., :3, :3], statistics)
    with pytest.raises(ValueError, match=r"must be \[L, H, 4, 4\]"):
        implicit_weights(p[..., :3, :3], q[..., :3, :3], statistics)
