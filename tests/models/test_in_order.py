"""Training on one task after the other, against the same written out with loops.

Dimension key: T tasks, N support images, Q queries, K classes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import models

T, N, Q, K, SIZE, STEPS, RATE = 3, 4, 3, 2, 8, 6, 0.1
SHAPE = (SIZE, SIZE, 1)


@pytest.fixture
def given(x64):
    rng = np.random.default_rng(0)
    x, x_query = (rng.normal(size=(1, T, n, SIZE**2)) for n in (N, Q))
    y, y_query = (np.eye(K)[rng.integers(K, size=(1, T, n))] for n in (N, Q))
    tasks = models.TaskSequence(*(jnp.asarray(a) for a in (x, y, x_query, y_query)))
    shapes = models.convnet_shapes(SHAPE, 3, 2, K)
    body = models.init_convnet(jax.random.key(0), shapes)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), body), tasks


def by_hand(body, tasks, ewc, lwf):
    """Scores [t, s] as a dict, of penalties that are kept task by task."""
    x, y, x_query, _ = (a[0] for a in tasks)
    x, x_query = (a.reshape(T, -1, *SHAPE) for a in (x, x_query))
    body = {name: layer for name, layer in body.items() if name != "head"}

    def answer(body, head, x):
        return models.convnet_features(body, x)[0] @ head["kernel"] + head["bias"][None]

    heads, held, scores = [], [], {}
    for t in range(T):
        D = models.convnet_features(body, x[t])[0].shape[-1]
        heads.append({"kernel": jnp.zeros((D, K)), "bias": jnp.zeros(K)})
        before = [jax.nn.softmax(answer(body, head, x[t]) / 2) for head in heads[:-1]]

        def loss(moving, t=t, before=before, held=tuple(held)):
            body, heads = moving
            total = optax.softmax_cross_entropy(answer(body, heads[t], x[t]), y[t]).mean()
            for fisher, anchor in held:
                gaps = jax.tree.map(lambda f, a, w: jnp.sum(f * (w - a) ** 2), fisher, anchor, body)
                total += ewc / 2 * sum(jax.tree.leaves(gaps))
            for s, soft in enumerate(before):
                now = jax.nn.log_softmax(answer(body, heads[s], x[t]) / 2)
                total -= lwf * 4 / t * (soft * now).sum(-1).mean()
            return total

        moving, slope = (body, heads), jax.jit(jax.grad(loss))
        for _ in range(STEPS):
            moving = jax.tree.map(lambda w, g: w - RATE * g, moving, slope(moving))
        body, heads = moving
        fisher = jax.tree.map(jnp.zeros_like, body)
        for n in range(N):
            for k in range(K):

                def log_p(body, n=n, k=k, t=t, head=heads[t]):
                    return jax.nn.log_softmax(answer(body, head, x[t]))[n, k]

                p, step = jnp.exp(log_p(body)), jax.grad(log_p)(body)
                fisher = jax.tree.map(lambda f, g, p=p: f + p * g**2 / N, fisher, step)
        held.append((fisher, body))
        shown = jnp.concatenate(list(x_query[: t + 1]))
        for s in range(t + 1):
            scores[t, s] = answer(body, heads[s], shown)[s * Q : (s + 1) * Q]
    return scores


@pytest.mark.parametrize(("ewc", "lwf"), [(0.0, 0.0), (50.0, 0.0), (0.0, 0.7)])
def test_it_is_what_the_definitions_say(ewc, lwf, given):
    body, tasks = given
    found = jax.jit(
        lambda ewc, lwf: models.learn_in_order(
            body, tasks, SHAPE, RATE, ewc=ewc, lwf=lwf, num_steps=STEPS
        )
    )(ewc, lwf)
    assert found.shape == (1, T, T, Q, K)
    for (t, s), scores in by_hand(body, tasks, ewc, lwf).items():
        np.testing.assert_allclose(found[0, t, s], scores, rtol=1e-6, atol=1e-8)
    assert not found[0, 0, 1:].any()


def test_penalties_hold_what_was_learned(given):
    """Answers about the first task then change less, but for the normalisation by more images."""
    body, tasks = given

    @jax.jit
    def change(ewc, lwf):
        scores = models.learn_in_order(body, tasks, SHAPE, RATE, ewc=ewc, lwf=lwf)
        return jnp.abs(scores[0, 1:, 0] - scores[0, :1, 0]).mean()

    free = change(0.0, 0.0)
    held, kept = change(10.0, 0.0), change(0.0, 10.0)
    assert held < free and kept < free / 2
