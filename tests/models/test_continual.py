"""The recursion over tasks, its scores and losses.

Dimension key: B sequences, T tasks, N support images, Q queries, K classes of a task.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import models
from ico.types import Prompt

SIZE, WAY, T, B, Q = 8, 2, 3, 2, 3
SMALL = {
    "channels": 2,
    "num_convs": 2,
    "num_blocks": 1,
    "code_dim": 5,
    "shared_dim": 3,
    "local_dim": 2,
}


def tasks(seed=0):
    rng = np.random.default_rng(seed)
    x, x_query = (rng.normal(size=(B, T, n, SIZE**2)) for n in (2 * WAY, Q))
    y = np.broadcast_to(np.eye(WAY)[np.arange(2 * WAY) % WAY], (B, T, 2 * WAY, WAY))
    y_query = np.broadcast_to(np.eye(WAY)[np.arange(Q) % WAY], (B, T, Q, WAY))
    return models.TaskSequence(*(jnp.asarray(a, jnp.float32) for a in (x, y, x_query, y_query)))


def built(outputs=4, **fields):
    writer = models.HyperTransformer((SIZE, SIZE, 1), WAY, outputs=outputs, **SMALL)
    model = models.ContinualHyperTransformer(writer, **fields)
    return model, jax.jit(model.init)(jax.random.key(0), tasks())["params"]


def scores(model, params, given):
    return jax.jit(lambda given: model.apply({"params": params}, given))(given)


def by_hand(model, params, given, memory):
    """Networks one after the other, without a scan, of the first sequence."""
    writer, inner = model.writer, {"params": params["writer"]} if "writer" in params else None
    before = jax.tree.map(lambda leaf: leaf[None], params["start"])
    networks, write = [], jax.jit(functools.partial(writer.apply, method="write"))
    for t in range(T):
        if memory == "fixed":
            networks.append(before)
            continue
        prompt = Prompt(given.x[:1, t], given.y[:1, t], given.x[:1, t, :0])
        after, _ = write(inner, prompt, before)
        networks.append(after)
        before = after if memory == "recursive" else before
    return [jax.tree.map(lambda leaf: leaf[0], n) for n in networks]


@pytest.mark.parametrize(
    "memory", [pytest.param(m, marks=pytest.mark.slow) for m in ("recursive", "none")] + ["fixed"]
)
def test_scores_are_those_of_networks_written_by_hand(memory):
    """Distances to the prototypes that were stored when each task was seen."""
    model, params = built(memory=memory)
    given = tasks()
    found = scores(model, params, given)
    networks = by_hand(model, params, given, memory)
    images = given.x_query[0].reshape(T, Q, SIZE, SIZE, 1)
    prototypes = []
    for t, network in enumerate(networks):
        own = models.convnet(network, given.x[0, t].reshape(-1, SIZE, SIZE, 1))
        prototypes += [own[np.arange(2 * WAY) % WAY == k].mean(0) for k in range(WAY)]
        seen = images[: t + 1].reshape(-1, SIZE, SIZE, 1)
        embedded = models.convnet(network, seen)
        expected = [[-((e - p) ** 2).sum() for p in prototypes] for e in embedded]
        expected = np.array(expected).reshape(t + 1, Q, -1)
        np.testing.assert_allclose(found[0, t, : t + 1, :, : WAY * (t + 1)], expected, atol=1e-3)
        assert np.all(np.isneginf(found[0, t, :, :, WAY * (t + 1) :]))


@pytest.mark.parametrize(
    "fields", [{}, pytest.param({"prototypes": False}, marks=pytest.mark.slow)]
)
def test_a_task_does_not_change_what_was_said_before_it(fields):
    """Neither its support images nor its queries."""
    model, params = built(WAY if fields else 4, **fields)
    given = tasks()
    other = jax.tree.map(lambda a, b: a.at[:, 2].set(b[:, 2]), given, tasks(1))
    first, second = scores(model, params, given), scores(model, params, other)
    np.testing.assert_allclose(first[:, :2, :2], second[:, :2, :2], atol=1e-5)
    assert np.abs(first[:, 2, 0, :, :2] - second[:, 2, 0, :, :2]).max() > 1e-4


@pytest.mark.parametrize("across", [pytest.param(False, marks=pytest.mark.slow), True])
def test_losses_and_accuracies_are_their_definitions(across):
    model, params = built()
    given = tasks()
    found = np.asarray(scores(model, params, given))
    judge = models.ContinualLoss(across)
    loss, accuracy = (f(jnp.asarray(found), given) for f in (judge, judge.accuracy))
    errors, right = [], np.full((B, T, T), np.nan)
    for b in range(B):
        for t in range(T):
            for s in range(t + 1):
                hits = []
                for q in range(Q):
                    k = q % WAY
                    own = found[b, t, s, q, : WAY * (t + 1)]
                    if across:
                        k += WAY * s
                    else:
                        own = own[WAY * s : WAY * (s + 1)]
                    own = own.astype(float)
                    errors.append(np.log(np.exp(own - own.max()).sum()) + own.max() - own[k])
                    hits.append(own.argmax() == k)
                right[b, t, s] = np.mean(hits)
    np.testing.assert_allclose(loss, np.mean(errors), rtol=1e-4)
    np.testing.assert_allclose(accuracy, right, atol=1e-6)
    transfer = models.backward_transfer(np.asarray(accuracy))
    expected = (right[:, 2, 0] - right[:, 0, 0] + right[:, 2, 1] - right[:, 1, 1]) / 2
    np.testing.assert_allclose(transfer, expected, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("fields", [{}, {"prototypes": False}, {"memory": "none"}])
def test_the_gradient_reaches_everything_that_is_used(fields):
    model, params = built(WAY if "prototypes" in fields else 4, **fields)
    given, judge = tasks(), models.ContinualLoss()

    @jax.jit
    def gradient(params):
        return jax.grad(lambda p: judge(model.apply({"params": p}, given), given))(params)

    found = gradient(params)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.any(found["start"]["conv_0"]["kernel"]) and np.any(found["writer"]["labels"][:-1])


def test_a_fixed_network_forgets_nothing():
    """With as many images: its answers to a task change with the normalisation alone."""
    model, params = built(memory="fixed")
    given = tasks()
    same = given._replace(x_query=jnp.broadcast_to(given.x_query[:, :1], given.x_query.shape))
    found = scores(model, params, same)
    np.testing.assert_allclose(found[:, 2, 0, :, :WAY], found[:, 0, 0, :, :WAY], atol=1e-4)


def test_counted_images_are_all_that_moments_are_of():
    shapes = models.convnet_shapes((SIZE, SIZE, 1), 2, 2, 3)
    weights = models.init_convnet(jax.random.key(0), shapes)
    x = jax.random.normal(jax.random.key(1), (5, SIZE, SIZE, 1))
    counted = models.convnet(weights, x, counted=jnp.array([1.0, 1, 1, 0, 0]))
    np.testing.assert_allclose(counted[:3], models.convnet(weights, x[:3]), atol=1e-5)


def test_parts_of_one_support_set_share_their_prototypes():
    """With one network for all parts: the mean over parts seen so far is that of their images."""
    model, params = built(memory="fixed", same_classes=True)
    given = tasks()
    found = scores(model, params, given)
    assert found.shape == (B, T, T, Q, WAY)
    network = params["start"]
    for t in range(T):
        parts = [
            models.convnet(network, given.x[0, s].reshape(-1, SIZE, SIZE, 1)) for s in range(t + 1)
        ]
        labels = np.arange(2 * WAY) % WAY
        means = np.mean([[part[labels == k].mean(0) for k in range(WAY)] for part in parts], axis=0)
        seen = given.x_query[0, : t + 1].reshape(-1, SIZE, SIZE, 1)
        embedded = np.asarray(models.convnet(network, seen))
        expected = -((embedded[:, None] - means[None]) ** 2).sum(-1)
        np.testing.assert_allclose(found[0, t, : t + 1].reshape(-1, WAY), expected, atol=1e-3)
