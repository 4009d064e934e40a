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
    eye = jnp.broadcast_to(jnp.eye(E), (heads, E, E))
    params = {}
    for i in range(layers):
        weights = {"key": q[i], "query": eye, "out": eye, "value": jnp.swapaxes(p[i], -1, -2)}
        params[f"block_{i}"] = {"attention": weights}
    return models.LinearTransformer(num_inputs=D, num_layers=layers, num_heads=heads), params


def predictions(w, prompt):
    return jnp.einsum("bqd,lbd->lbq", prompt.x_query, w)[..., None]


def close(ours, theirs, tolerance=1e-10):
    scale = max(1.0, float(jnp.abs(theirs).max()))
    assert float(jnp.abs(ours - theirs).max()) <= tolerance * scale


CASES = [(1, 1, 0.3), (2, 3, 0.2), (4, 1, 0.1), (5, 2, 0.06)]


@pytest.mark.parametrize(("layers", "heads", "scale"), CASES)
def test_extracted_model_is_the_forward_pass(layers, heads, scale, x64):
    given, (p, q) = prompt(), full(layers, heads, scale)
    model, params = attention(p, q)
    expected = model.apply({"params": params}, given, all_layers=True)
    found = al.implicit_model(p, q, al.statistics(given))
    close(predictions(found.w[1:], given), expected)
    close(al.implicit_weights(p, q, al.statistics(given)), found.w[-1])
    for ours, theirs in zip(models.stacked_products(params), (p, q), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("layers", "heads", "scale"), CASES)
def test_every_token_is_the_model_applied_to_its_start(layers, heads, scale, x64):
    """x_i = M x_i0 + y_i0 u and y_i = a y_i0 - <w, x_i0>, for context and query tokens."""
    given, (p, q) = prompt(), full(layers, heads, scale)
    context = jnp.concatenate([given.x, given.y], -1)
    queries = jnp.concatenate([given.x_query, jnp.zeros((B, Q, 1))], -1)
    tokens = jnp.concatenate([context, queries], 1)
    start, found = tokens, al.implicit_model(p, q, al.statistics(given))
    for layer in range(layers + 1):
        M, u, a, w = (leaf[layer] for leaf in found)
        x0, y0 = start[..., :D], start[..., D:]
        close(jnp.einsum("bde,bne->bnd", M, x0) + y0 * u[:, None], tokens[..., :D])
        close(a[:, None] * y0[..., 0] - jnp.einsum("bd,bnd->bn", w, x0), tokens[..., D])
        if layer < layers:  # the layer as the paper writes it, by a loop over tokens
            gram = jnp.einsum("bnd,bne->bde", tokens[:, :N], tokens[:, :N])
            tokens = tokens + sum(
                jnp.einsum("de,bef,fg,bng->bnd", p[layer, h], gram, q[layer, h], tokens)
                for h in range(heads)
            )


@pytest.mark.parametrize(("layers", "heads", "scale"), CASES)
def test_reading_adds_up(layers, heads, scale, x64):
    given, (p, q) = prompt(), full(layers, heads, scale)
    statistics = al.statistics(given)
    found = al.implicit_model(p, q, statistics)
    r = al.descent_reading(p, q, statistics, found)
    for layer in range(layers):
        descent = jnp.einsum("bde,be->bd", r.preconditioner[layer], r.gradient[layer])
        step = r.rescaling[layer][:, None] * found.w[layer] - descent
        close(step + r.momentum[layer] + r.cross[layer], found.w[layer + 1])

        def loss(w, a=found.a[layer]):
            residual = a[:, None] * given.y[..., 0] - jnp.einsum("bd,bnd->bn", w, given.x)
            return 0.5 * jnp.sum(residual**2)

        close(r.gradient[layer], jax.grad(loss)(found.w[layer]))


def scalars(layers, seed=0, scale=0.05):
    rng = np.random.default_rng(seed)
    return al.DiagonalScalars(*(jnp.asarray(scale * rng.normal(size=layers)) for _ in range(4)))


def test_a_diagonal_layer_is_gradient_descent_with_rescaling_and_momentum(x64):
    """Nothing crosses, and momentum runs along M^T u, what earlier layers wrote into inputs."""
    given, chosen = prompt(), scalars(3)
    statistics, (p, q) = al.statistics(given), al.diagonal_heads(chosen, D)
    found = al.implicit_model(p, q, statistics)
    r = al.descent_reading(p, q, statistics, found)
    close(r.cross, jnp.zeros_like(r.cross))
    close(r.momentum[0], jnp.zeros((B, D)))  # nothing came earlier
    assert float(jnp.abs(r.momentum[1:]).min()) > 0
    along = jnp.einsum("lbed,lbe->lbd", found.M[:-1], found.u[:-1])
    rest = jnp.cross(along, r.momentum) if D == 3 else None
    close(rest, jnp.zeros_like(rest))
    # Preconditioned by M^T M: positive where the layer descends.
    for layer in range(3):
        matrix = jnp.einsum("bed,bef->bdf", found.M[layer], found.M[layer])
        close(r.preconditioner[layer], -chosen.yx[layer] * matrix)


def test_without_cross_blocks_the_reading_is_the_whole_layer(x64):
    """Free P and Q, but that q_yx, p_yx and p_xy, q_xy are zero: descent, momentum, rescaling."""
    given, (p, q) = prompt(), full(3, 2, 0.1)
    p, q = (jnp.asarray(a).at[:, :, -1, :-1].set(0).at[:, :, :-1, -1].set(0) for a in (p, q))
    statistics = al.statistics(given)
    r = al.descent_reading(p, q, statistics, al.implicit_model(p, q, statistics))
    close(r.cross, jnp.zeros_like(r.cross))
    assert float(jnp.abs(r.momentum[1:]).min()) > 0


@pytest.mark.parametrize("layers", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("basis", ["inputs", "eigenvectors"])
def test_closed_form_on_statistics_is_attention(layers, basis, x64):
    given, chosen = prompt(), scalars(layers, scale=0.02)
    model, params = attention(*al.diagonal_heads(chosen, D))
    expected = model.apply({"params": params}, given, all_layers=True)
    statistics = al.statistics(given)
    turn = jnp.broadcast_to(jnp.eye(D), (B, D, D))
    if basis == "eigenvectors":
        values, turn = jnp.linalg.eigh(statistics.xx)
        xy = jnp.einsum("bde,bd->be", turn, statistics.xy)
        statistics = Statistics(values, xy, statistics.yy)
    w = al.diagonal_weights(chosen, statistics, all_layers=True)
    close(predictions(jnp.einsum("bde,lbe->lbd", turn, w), given), expected)
    close(al.diagonal_weights(chosen, statistics), w[-1])


def test_gradients_of_both_bases_agree(x64):
    statistics = al.statistics(prompt())
    values, turn = jnp.linalg.eigh(statistics.xx)
    xy = jnp.einsum("bde,bd->be", turn, statistics.xy)
    spectral = Statistics(values, xy, statistics.yy)

    def loss(chosen, statistics):
        return jnp.sum(al.diagonal_weights(chosen, statistics) ** 2)

    slope = jax.jit(jax.grad(loss))
    ours, theirs = (slope(scalars(3, scale=0.02), s) for s in (spectral, statistics))
    jax.tree.map(close, ours, theirs)


def test_scalars_of_heads(x64):
    """One head binds w_xx w_yy = w_xy w_yx; the two-headed form of any scalars gives them back."""
    rng = np.random.default_rng(0)
    one = al.diagonal_scalars(*(jnp.asarray(rng.normal(size=(4, 1))) for _ in range(4)))
    np.testing.assert_allclose(one.xx * one.yy, one.xy * one.yx, rtol=1e-12)
    two = al.diagonal_scalars(*(jnp.asarray(rng.normal(size=(4, 2))) for _ in range(4)))
    assert float(jnp.abs(two.xx * two.yy - two.xy * two.yx).min()) > 1e-3
    p, q = al.diagonal_heads(two, D)
    np.testing.assert_allclose((p[:, :, 0, 0] * q[:, :, 0, 0]).sum(1), two.xx)
    np.testing.assert_allclose((p[:, :, 0, 0] * q[:, :, D, D]).sum(1), two.xy)
    np.testing.assert_allclose((p[:, :, D, D] * q[:, :, 0, 0]).sum(1), two.yx)
    np.testing.assert_allclose((p[:, :, D, D] * q[:, :, D, D]).sum(1), two.yy)


def test_shapes_that_do_not_fit():
    statistics = al.statistics(prompt())
    p, q = full(2, 1, 0.1)
    with pytest.raises(ValueError, match=r"must be \[L, H, 4, 4\]"):
        al.implicit_model(p[..., :3, :3], q[..., :3, :3], statistics)
    with pytest.raises(ValueError, match=r"must be \[L, H, 4, 4\]"):
        al.implicit_weights(p[..., :3, :3], q[..., :3, :3], statistics)
