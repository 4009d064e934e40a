"""Learnable memory beside full fine-tuning, tasks in one pass, and stacked clients."""

import functools

import jax
import jax.numpy as jnp
import optax

from benchmarks._measure import Row, ratio_row, take_turns
from ico import models, peers

_ROUNDS, _BATCH, _CLASSES = 9, 32, 10
_VIT = models.ViT(patch=4, dim=96, depth=6, num_heads=4, class_token=True)
_CLIENTS = 8


def _images(count: int, size: int = 28):
    return jax.random.normal(jax.random.key(0), (count, size, size, 1))


def _steps() -> list[Row]:
    """The gradient by five cells a layer, a class token and a head, and by everything."""
    images, labels = _images(_BATCH), jnp.arange(_BATCH) % _CLASSES
    params = jax.jit(_VIT.init)(jax.random.key(1), images)["params"]
    calls = {}
    for name, way in (
        ("memory", models.Memory(_VIT, _CLASSES, 5)),
        ("everything", models.WholeModel(_VIT, _CLASSES)),
    ):

        def loss(moving, params, way=way):
            logits = way.logits(params, moving, images)
            return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

        step, moving = jax.jit(jax.grad(loss)), way.init(jax.random.key(2), params)
        calls[name] = functools.partial(
            lambda step, moving: jax.block_until_ready(step(moving, params)), step, moving
        )
    taken = take_turns(calls, _ROUNDS, at_least=0.2)
    name = "a step of memory / of everything (50 tokens, 6 layers)"
    return [ratio_row(name, taken["memory"], taken["everything"], ("<=", 0.6))]


def _one_pass() -> list[Row]:
    """Four tasks in one pass, over one task's pass and over four passes."""
    images = _images(_BATCH)
    params = jax.jit(_VIT.init)(jax.random.key(1), images)["params"]
    keys = jax.random.split(jax.random.key(2), 4)
    tasks = {str(n): models.new_task(k, params, _CLASSES, 5) for n, k in enumerate(keys)}
    read = jax.jit(lambda tasks: models.memory_logits(_VIT, params, tasks, images)[0])
    one = {"0": tasks["0"]}
    calls = {
        "one": lambda: jax.block_until_ready(read(one)),
        "four": lambda: jax.block_until_ready(read(tasks)),
        "apart": lambda: [jax.block_until_ready(read({n: t})) for n, t in tasks.items()],
    }
    taken = take_turns(calls, _ROUNDS, at_least=0.2)
    return [
        ratio_row("4 tasks in one pass / one task", taken["four"], taken["one"], ("<=", 1.6)),
        ratio_row("4 tasks in four passes / in one", taken["apart"], taken["four"]),
    ]


def _clients() -> list[Row]:
    """A step of eight clients that distil, stacked and one after the other."""
    model = models.MultiHeadClassifier(_CLASSES, aux_heads=4)
    apply = lambda params, x: model.apply({"params": params}, x)  # noqa: E731
    images, optimizer = _images(_BATCH, 14), optax.adam(1e-3)
    config, graph = peers.Distillation(), peers.complete(_CLIENTS)[None]
    init = lambda key: model.init(key, images[:1])["params"]  # noqa: E731
    state = peers.init_peers(jax.random.key(0), init, optimizer, _CLIENTS)
    batch = peers.Batch(
        jnp.broadcast_to(images[None], (_CLIENTS, *images.shape)),
        jnp.zeros((_CLIENTS, _BATCH), int),
        images,
        jnp.ones(_CLIENTS, bool),
    )
    at_once = jax.jit(peers.peers_step([apply], optimizer, config, graph))
    # A group each: the same clients as a loop over them.
    apart = [
        jax.tree.map(lambda leaf, k=k: leaf[k : k + 1] if leaf.ndim else leaf, state)
        for k in range(_CLIENTS)
    ]
    in_turn = jax.jit(peers.peers_step([apply] * _CLIENTS, optimizer, config, graph))
    key = jax.random.key(1)
    calls = {
        "stacked": lambda: jax.block_until_ready(at_once([state], batch, key)),
        "loop": lambda: jax.block_until_ready(in_turn(apart, batch, key)),
    }
    taken = take_turns(calls, _ROUNDS, at_least=0.2)
    return [
        ratio_row("8 clients one by one / stacked", taken["loop"], taken["stacked"], (">=", 1.5))
    ]


def run() -> list[Row]:
    """All of it."""
    return _steps() + _one_pass() + _clients()
