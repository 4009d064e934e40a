"""MesaNet's layer against a solve at every position, in its published tests' regimes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.layers import MesaCgState, cap_forget, mesa, mesa_cg
from tests.layers.conftest import relative, sequences

GATES = {"weak": (0.8, 0.99), "strong": (0.01, 0.1), "none": (1.0, 1.0)}
ANY = {"weak": (0.8, 0.99), "none": (1.0, 1.0), "any": (0.0, 1.0)}


def dense(q, k, v, beta, f, reg, gram, memory, begins=None):
    """A linear solve at every position: the definition."""
    begins = jnp.zeros(q.shape[:2], bool) if begins is None else begins

    def step(state, at):
        q, k, v, beta, f, begins = at
        gram, memory = (jnp.where(begins[:, None, None, None], 0, a) for a in state)
        f, weighted = f[..., None, None], (beta[..., None] * k)[..., None, :]
        gram, memory = f * gram + k[..., None] * weighted, f * memory + v[..., None] * weighted
        # A diagonal matrix a head.
        ridge = reg[None, :, :, None] * jnp.eye(q.shape[-1])[None, None]
        x = jnp.linalg.solve(gram + ridge, q[..., None])
        return (gram, memory), (memory @ x)[..., 0]

    steps = [jnp.moveaxis(a, 1, 0) for a in (q, k, v, beta, f, begins)]
    last, o = jax.lax.scan(step, (gram, memory), tuple(steps))
    return jnp.moveaxis(o, 0, 1), MesaCgState(*last)


def arguments(T, D, V, gate, *, B=2, H=2, dtype=np.float64):
    """As in the published tests: keys of length one, q and v small, initial states."""
    rng = np.random.default_rng(7)
    _, k, _, f = sequences(T, D, V, B=B, H=H, forget=(GATES | ANY)[gate], dtype=dtype)
    q, v = rng.uniform(size=(B, T, H, D)) / 10, rng.uniform(size=(B, T, H, V)) / 10
    beta = 1 / (1 + np.exp(-rng.uniform(size=f.shape)))
    if gate == "any":
        f = jnp.asarray(rng.choice([0, 1e-30, 1e-12, 1e-3, 0.5, 0.9, 1], size=f.shape))
    reg = 0.25 + 0.75 / (1 + np.exp(-rng.normal(size=(H, D))))
    gram = rng.normal(size=(B, H, D, D)) / D
    gram, memory = gram @ np.swapaxes(gram, -1, -2), rng.normal(size=(B, H, V, D)) / D
    return [jnp.asarray(a, dtype) for a in (q, k, v, beta, f, reg, gram, memory)]


def everything(layer, args):
    """Output, states and all gradients, through the final states too."""

    @jax.jit
    def run(*args):
        out, pull = jax.vjp(layer, *args)
        return out, pull(jax.tree.map(lambda a: jnp.cos(3 * a), out))

    return [np.asarray(a) for a in jax.tree.leaves(run(*args))]


def ours(num_steps, segments=None, chunk_size=64):
    options = {"num_steps": num_steps, "chunk_size": chunk_size, "return_state": True}

    def layer(q, k, v, beta, f, reg, gram, memory):
        sides = {"initial_state": MesaCgState(gram, memory), "segment_ids": segments}
        return mesa_cg(q, k, v, reg=reg, forget=f, beta=beta, **sides, **options)

    return layer


@pytest.mark.parametrize("gate", ANY)
def test_converged_it_is_the_dense_solve(gate, x64):
    """Outputs, states and every gradient, in packed sequences with boundaries inside chunks."""
    args = arguments(21, 5, 3, gate)
    segments = jnp.asarray(np.sort(np.random.default_rng(1).integers(0, 5, (2, 21)), axis=1))
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)))
    found = everything(ours(20, segments, 8), args)
    exact = everything(lambda *args: dense(*args, begins), args)
    for a, b in zip(found, exact, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10 * max(1, np.abs(b).max()))


# The published tests' limits (outputs 6e-3, gradients 8e-3, regulariser 1.5e-2), a tenth of them.
LIMITS = [6e-4, 8e-4, 8e-4, *[8e-4] * 5, 1.5e-3, 8e-4, 8e-4]
PUBLISHED = [(1, 63, 1, 64), (2, 500, 4, 60)]
LARGE = [(2, 1024, 8, 128), (4, 2048, 8, 64)]


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(
    "shape", [PUBLISHED[0], *(pytest.param(s, marks=pytest.mark.slow) for s in PUBLISHED[1:])]
)
def test_published_accuracy_in_float32(shape, gate):
    """At a tenth of the published tolerances, against float64; D steps, as there."""
    B, T, H, D = shape
    args = arguments(T, D, D, gate, B=B, H=H, dtype=np.float32)
    found = everything(ours(D, chunk_size=16 if T < 100 else 64), args)
    with jax.enable_x64(True):
        exact = everything(dense, [jnp.asarray(a, jnp.float64) for a in args])
    for a, b, limit in zip(found, exact, LIMITS, strict=True):
        assert np.abs(a - b).max() < 1e-6 or relative(a, b) < limit


@pytest.mark.slow
@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize("shape", LARGE)
def test_published_accuracy_of_large_outputs(shape, gate):
    """Outputs and states alone: the dense solve's gradients do not fit."""
    B, T, H, D = shape
    args = arguments(T, D, D, gate, B=B, H=H, dtype=np.float32)
    found = jax.tree.leaves(jax.jit(ours(D))(*args))
    with jax.enable_x64(True):
        exact = jax.tree.leaves(jax.jit(dense)(*(jnp.asarray(a, jnp.float64) for a in args)))
    for a, b, limit in zip(found, exact, LIMITS, strict=False):
        assert relative(a, b) < limit


def test_without_forgetting_it_is_mesa(x64):
    q, k, v, _, _, reg, *_ = arguments(30, 6, 4, "none")
    exact = jax.jit(mesa)(q, k, v, lam=1 / reg)
    found = jax.jit(functools.partial(mesa_cg, num_steps=20))(q, k, v, reg=reg)
    np.testing.assert_allclose(found, exact, atol=1e-11)


def test_a_tolerance_stops_early_and_is_kept(x64):
    """Fewer steps, and a residual as small as was asked, seen from outside."""
    q, k, v, _, _, reg, *_ = arguments(80, 16, 16, "none")
    # Without values, from unit memory, the output is the solution itself.
    gram = jnp.cumsum(k[..., :, None] * k[..., None, :], 1)
    eye = jnp.broadcast_to(jnp.eye(16)[None, None], (2, 2, 16, 16))
    state = MesaCgState(jnp.zeros_like(eye), eye)
    errors = {}
    for tolerance in (1e-1, 1e-3, 1e-6):
        layer = jax.jit(functools.partial(mesa_cg, num_steps=99, tolerance=tolerance))
        x = layer(q, k, 0 * v, reg=reg, initial_state=state)
        r = q - jnp.einsum("bthde,bthe->bthd", gram, x) - reg[None, None] * x
        errors[tolerance] = float(
            jnp.max(jnp.linalg.norm(r, axis=-1) / jnp.linalg.norm(q, axis=-1))
        )
        assert errors[tolerance] <= tolerance * (1 + 1e-9)
    assert errors[1e-1] > 1e-6 and errors[1e-3] > 1e-6  # stopped, not gone on


@pytest.mark.slow
def test_more_steps_than_can_help_stay_finite():
    args = arguments(40, 8, 8, "weak", dtype=np.float32)
    few, many = (everything(ours(n), args) for n in (16, 300))
    for a, b in zip(few, many, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1, np.abs(b).max()))


@pytest.mark.parametrize("size", [1e-12, 1e-19, 1e12])
def test_tiny_and_huge_queries_are_solved_as_well(size):
    """The squares of tiny ones are zero in float32; cotangents may be that small."""
    q, k, v, beta, f, reg, *_ = arguments(40, 8, 8, "weak", dtype=np.float32)
    layer = jax.jit(functools.partial(mesa_cg, reg=reg / 25))
    ours, plain = layer(size * q, k, v, forget=f), layer(q, k, v, forget=f)
    assert relative(ours / np.float64(size), plain) < 1e-5


def test_nothing_to_solve_is_finite():
    """Zero queries, keys and values, and their gradients: no residual to divide by."""
    args = arguments(40, 8, 8, "weak", dtype=np.float32)
    zeros = [jnp.zeros_like(a) for a in args[:3]]
    chex.assert_tree_all_finite(everything(ours(16), [*zeros, *args[3:]]))


def test_no_steps_are_refused():
    q, k, v, _, _, reg, *_ = arguments(4, 3, 2, "weak", dtype=np.float32)
    with pytest.raises(ValueError, match="num_steps"):
        mesa_cg(q, k, v, reg=reg, num_steps=0)


def test_the_cap_forgets_where_much_is_written():
    f, beta = jnp.array([[[1.0, 0.5, 0.8]]]), jnp.array([[[1.0, 0.0, 0.5]]])
    np.testing.assert_allclose(cap_forget(f, beta), [[[0.9975, 0.5, 0.7995]]], rtol=1e-6)
    np.testing.assert_allclose(cap_forget(f, beta, cap=0.5), [[[0.5, 0.5, 0.7]]], rtol=1e-6)
