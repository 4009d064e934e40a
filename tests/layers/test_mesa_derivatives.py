"""Derivatives of the mesa layer where gates are small, in all forms and modes."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.layers import mesa
from tests.layers.conftest import sequences

FORMS = ("chunked", "parallel", "recurrent")


@pytest.mark.parametrize("form", FORMS)
def test_the_derivative_of_small_gates_is_right(form, x64):
    """Of width one, against the dense form in float64: no derivative divides rounding by f^2."""
    T, gates = 24, (1, 0.5, 1e-3, 1e-6, 1e-10, 1e-14, 1e-19, 1e-25)
    rng = np.random.default_rng(1)
    q, k, v, w = (rng.normal(size=(T, 1, 1)).astype(np.float32) for _ in range(4))
    f = np.outer(rng.uniform(0.5, 1, T), gates).T.astype(np.float32)[..., None]

    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(form, *qkv, f):
        def loss(log_f, *qkv):
            q, k, v, log_f = (a[None] for a in (*qkv, log_f))
            lam = jnp.full(1, 0.5)
            return jnp.sum(w * mesa(q, k, v, lam=lam, log_forget=log_f, form=form)[0])

        return jax.lax.map(lambda f: jax.grad(loss, (0, 1, 2, 3))(jnp.log(f), *qkv), f)

    found = derivatives(form, q, k, v, f=f)
    wanted = derivatives("dense", *(jnp.float64(a) for a in (q, k, v)), f=jnp.float64(f))
    for ours, right in zip(found, wanted, strict=True):
        ours, right = (np.asarray(a, np.float64).reshape(len(gates), -1) for a in (ours, right))
        assert np.all(np.abs(ours - right).max(1) < 3e-6 * np.abs(right).max(1))


def test_modes_of_the_recurrent_derivative_agree(x64):
    """Forward, reverse and second derivatives against those of the dense form."""
    q, k, v, f = sequences(7, 3, 2, B=1, H=1, forget=(0.02, 1.0))
    f = f.at[:, 4].set(1e-5)

    def outputs(form, log_f, k):
        return mesa(q, k, v, lam=jnp.ones(1), log_forget=log_f, form=form)

    def of(form, mode):
        return mode(functools.partial(outputs, form), (0, 1))(jnp.log(f), k)

    for mode in (jax.jacfwd, jax.jacrev):
        chex.assert_trees_all_close(of("recurrent", mode), of("dense", mode), rtol=1e-6, atol=1e-6)

    def twice(form):
        loss = lambda *a: jnp.sum(outputs(form, *a) ** 2)  # noqa: E731
        return jax.hessian(loss, (0, 1))(jnp.log(f), k)

    chex.assert_trees_all_close(twice("recurrent"), twice("dense"), rtol=1e-5, atol=1e-5)
