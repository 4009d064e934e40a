"""Averages of iterates, steps in a span of checkpoints, and convolutions of many networks at once.

A training step of an MLP with a million parameters on 128 images; small networks under vmap.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from benchmarks._measure import Row, ratio_row, take_turns
from ico import models, optim

_BATCH, _CHECKPOINTS = 128, 30


def _cross_entropy(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def _stepping(model, optimizer, params, images, labels):
    """A training step, parameters and state in place."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state):
        def loss(params):
            return _cross_entropy(model.apply({"params": params}, images), labels)

        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    now = [jax.tree.map(jnp.copy, params), jax.jit(optimizer.init)(params)]

    def call():
        now[:] = jax.block_until_ready(step(*now))

    return call


def _steps() -> list[Row]:
    """What averaging and training in a span add to a step."""
    model = models.MLPClassifier(10, (776, 776))
    images = jax.random.normal(jax.random.key(0), (_BATCH, 16, 32, 1))
    labels = jnp.arange(_BATCH) % 10
    params = model.init(jax.random.key(1), images)["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    rows = jax.random.normal(jax.random.key(2), (_CHECKPOINTS, size))
    sgd = optax.sgd(1e-3, momentum=0.9)
    optimizers = {
        "plain": sgd,
        "EMA": optim.averaged(sgd, optim.EMA(0.99), 1000),
        "two points": optim.averaged(sgd, optim.TwoPoint(100), 1000),
        "TWA": optim.subspace(sgd, optim.orthonormal_span(rows)),
        "TWA, 8 bits": optim.subspace(sgd, optim.centred_span(rows, bits=8)),
    }
    calls = {
        name: _stepping(model, optimizer, params, images, labels)
        for name, optimizer in optimizers.items()
    }
    seconds = take_turns(calls, rounds=15)
    goals = {"EMA": 1.05, "two points": 1.05, "TWA": 1.3, "TWA, 8 bits": 1.3}
    what = f"a training step / plain, {size / 1e6:.1f} million parameters, batch {_BATCH}: "
    extra = {name: f", {_CHECKPOINTS} checkpoints" if "TWA" in name else "" for name in goals}
    return [
        ratio_row(what + name + extra[name], seconds[name], seconds["plain"], ("<=", goal))
        for name, goal in goals.items()
    ]


def _convolutions() -> list[Row]:
    """Eight networks under vmap against one: patches, and XLA's own (grouped) convolution."""
    x = jax.random.normal(jax.random.key(0), (32, 14, 14, 16))
    patches = models.PatchConv(32)
    kernels = jax.random.normal(jax.random.key(1), (8, 3 * 3 * 16, 32)) / 12

    def by_patches(kernel):
        return patches.apply({"params": {"kernel": kernel, "bias": jnp.zeros(32)}}, x)

    def by_xla(kernel):
        kernel = kernel.reshape(3, 3, 16, 32)
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    calls = {}
    for name, convolve in (("patches", by_patches), ("XLA", by_xla)):

        def gradients(kernels, convolve=convolve):
            return jax.vmap(jax.grad(lambda k: jnp.sum(jnp.sin(convolve(k)))))(kernels)

        compiled = jax.jit(gradients)
        for count in (1, 8):
            given = kernels[:count]
            calls[f"{name}, {count}"] = lambda f=compiled, k=given: jax.block_until_ready(f(k))
    seconds = take_turns(calls, rounds=15)
    return [
        ratio_row(
            "gradients of 8 networks' convolution under vmap / of one, patches",
            seconds["patches, 8"], seconds["patches, 1"], ("<=", 10),
        ),
        ratio_row("the same by XLA's convolution", seconds["XLA, 8"], seconds["XLA, 1"]),
        ratio_row(
            "8 networks, patches / XLA's convolution",
            seconds["patches, 8"], seconds["XLA, 8"], ("<=", 1),
        ),
    ]  # fmt: skip


def run() -> list[Row]:
    """Ratios."""
    return [*_steps(), *_convolutions()]
