"""Networks that a transformer writes: training over tasks at once, writing, their convolutions.

Episodes of five classes of letters, 28 x 28, one labelled image and eight queries each.
"""

import functools
import time

import jax
import jax.numpy as jnp
import optax

from benchmarks._measure import Row, median_row, ratio_row, take_turns
from ico import data, models
from ico.data import FewShot
from ico.models import convolve

_SHAPE, _WAY, _TASKS, _ROUNDS = (28, 28, 1), 5, 8, 9


def _episodes(num_tasks: int):
    images = data.letters(_SHAPE[0], 10)
    return data.few_shot(jax.random.key(0), FewShot(_WAY, 1, 0, 8, num_tasks), images.arrays)


def _training() -> list[Row]:
    """The gradient over eight tasks, all at once and one after the other."""
    model, episode = models.HyperTransformer(_SHAPE, _WAY, 4), _episodes(_TASKS)
    params = jax.jit(model.init)(jax.random.key(1), episode.prompt)["params"]

    def loss(params, episode):
        logits = model.apply({"params": params}, episode.prompt)
        return optax.softmax_cross_entropy(logits, episode.y_query).mean()

    def in_turn(params, episode):
        one_by_one = jax.tree.map(lambda leaf: leaf[:, None], episode)
        return jax.lax.map(lambda one: loss(params, one), one_by_one).mean()

    compiled, seconds = {}, {}
    for name, function in (("at once", loss), ("one by one", in_turn)):
        begun = time.perf_counter()
        compiled[name] = jax.jit(jax.grad(function)).lower(params, episode).compile()
        seconds[name] = time.perf_counter() - begun
    taken = take_turns(
        {
            name: functools.partial(lambda f: jax.block_until_ready(f(params, episode)), step)
            for name, step in compiled.items()
        },
        _ROUNDS,
        at_least=0.2,
    )
    rate = [_TASKS / s for s in taken["at once"]]
    return [
        median_row("episodes in training, 4 channels, 8 tasks at once", rate, "1/s"),
        ratio_row(
            "the same tasks by lax.map / at once",
            taken["one by one"],
            taken["at once"],
            (">=", 3.0),
        ),
        Row("compiling it", seconds["at once"], "s", goal=("<=", 60.0)),
    ]


def _writing() -> list[Row]:
    """One network of eight channels from five images; beside it MAML's inner loop."""
    prompt = _episodes(1).prompt
    calls = {}
    writer, maml = models.HyperTransformer(_SHAPE, _WAY, 8), models.Maml(_SHAPE, _WAY, 8)
    for name, model in (("writing", writer), ("MAML's five steps", maml)):
        params = jax.jit(model.init)(jax.random.key(1), prompt)["params"]
        call = jax.jit(functools.partial(model.apply, method="write"))
        calls[name] = functools.partial(
            lambda call, params: jax.block_until_ready(call({"params": params}, prompt)),
            call,
            params,
        )
    taken = take_turns(calls, _ROUNDS, at_least=0.2)
    return [
        median_row(
            "writing 4 convolutions of 8 channels and a head from 5 images",
            [1e3 * s for s in taken["writing"]],
            "ms",
            ("<=", 10.0),
        ),
        median_row("MAML's five steps", [1e3 * s for s in taken["MAML's five steps"]], "ms"),
    ]


def _shifted(x, kernel):
    """The same convolution as a sum of products, one for each shift."""
    S, (_, H, W, _) = len(kernel), x.shape
    padded = jnp.pad(x, ((0, 0), (S // 2, S // 2), (S // 2, S // 2), (0, 0)))
    shifts = ((i, j) for i in range(S) for j in range(S))
    return sum(padded[:, i : i + H, j : j + W] @ kernel[i, j] for i, j in shifts)


def _grouped(x, kernel):
    """XLA's own convolution, which vmap makes a grouped one."""
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _convolutions() -> list[Row]:
    """Gradients of a convolution with another kernel for each task."""
    x = jax.random.normal(jax.random.key(0), (_TASKS, 45, 14, 14, 4))
    kernels = jax.random.normal(jax.random.key(1), (_TASKS, 3, 3, 4, 4))
    calls = {}
    for name, how in (("patches", convolve), ("shifts", _shifted), ("grouped", _grouped)):
        gradient = jax.jit(
            jax.grad(lambda x, k, how=how: (jax.vmap(how)(x, k) ** 2).sum(), argnums=(0, 1))
        )
        calls[name] = functools.partial(lambda g: jax.block_until_ready(g(x, kernels)), gradient)
    taken = take_turns(calls, _ROUNDS, at_least=0.1)
    return [
        ratio_row("convolutions by task: grouped / patches", taken["grouped"], taken["patches"]),
        ratio_row("convolutions by task: shifts / patches", taken["shifts"], taken["patches"]),
    ]


def run() -> list[Row]:
    """All of them."""
    return [*_training(), *_writing(), *_convolutions()]
