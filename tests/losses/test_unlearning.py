"""What losses for forgetting do to likelihoods, by their derivatives and limits."""

import jax
import jax.numpy as jnp
import numpy as np

from ico import losses

FORGET, RETAIN = jnp.array([-3.0, -10.0, -1.0]), jnp.array([-2.0, -4.0, -6.0])
REFERENCE = jnp.array([-3.0, -2.0, -1.5])


def test_ascent_lowers_the_one_and_descent_raises_the_other():
    np.testing.assert_allclose(jax.grad(losses.gradient_ascent)(FORGET), np.full(3, 1 / 3))
    slopes = jax.grad(losses.gradient_difference, (0, 1))(FORGET, RETAIN)
    np.testing.assert_allclose(slopes, [np.full(3, 1 / 3), np.full(3, -1 / 3)])
    weighted = losses.gradient_difference(FORGET, RETAIN, gamma=0.5, alpha=2.0)
    np.testing.assert_allclose(weighted, 0.5 * FORGET.mean() - 2 * RETAIN.mean(), rtol=1e-6)


def test_npo_weighs_ascent_by_what_is_left_to_forget():
    """The weight is 2 p^b / (p^b + p_ref^b), which is one where nothing is forgotten yet."""
    for beta in (0.1, 2.0):
        slope = jax.grad(lambda f, beta=beta: losses.npo(f, REFERENCE, beta=beta))(FORGET)
        p, q = np.exp(beta * np.asarray(FORGET)), np.exp(beta * np.asarray(REFERENCE))
        np.testing.assert_allclose(slope, 2 * p / (p + q) / 3, rtol=1e-5)
    slope = jax.grad(lambda f: losses.npo(f, REFERENCE, beta=1e-3))(FORGET)
    np.testing.assert_allclose(slope, 1 / 3, rtol=1e-2)  # the limit is ascent
    assert not jax.grad(lambda r: losses.npo(FORGET, r))(REFERENCE).any()


def test_simnpo_is_npo_by_the_token_without_a_reference():
    lengths = jnp.array([3.0, 5.0, 2.0])
    found = losses.simnpo(FORGET, lengths, beta=2.0)
    wanted = losses.npo(FORGET / lengths, jnp.zeros(3), beta=2.0)
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    # The larger delta is, the worse a sequence has to be before its gradient fades.
    of = lambda d: jax.grad(lambda f: losses.simnpo(f, lengths, delta=d))(FORGET)  # noqa: E731
    assert (of(1.0) > of(0.0)).all()


def test_rmu_pushes_and_holds_only_what_counts():
    rng = np.random.default_rng(0)
    forget, retain, reference = (jnp.asarray(rng.normal(size=(2, 3, 4))) for _ in range(3))
    direction = jnp.array([1.0, 0, 0, 0])
    counted = jnp.array([[True, True, False], [True, False, False]]), jnp.ones((2, 3), bool)

    def loss(forget, retain):
        return losses.rmu(forget, retain, reference, direction, counted=counted, alpha=3.0)

    gaps = np.asarray(forget - 2 * direction[None, None]) ** 2
    held = np.asarray(retain - reference) ** 2
    wanted = gaps[np.asarray(counted[0])].mean() + 3 * held.mean()
    np.testing.assert_allclose(loss(forget, retain), wanted, rtol=1e-5)
    slope = jax.grad(loss)(forget, retain)
    assert not slope[~counted[0]].any() and slope[counted[0]].all()
    least = jnp.broadcast_to(2 * direction[None, None], forget.shape)
    np.testing.assert_allclose(loss(least, reference), 0, atol=1e-12)
