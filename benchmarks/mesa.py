"""The mesa layer against one large matrix product, its approximation, and autodiff."""

import functools

import jax
import jax.numpy as jnp

from benchmarks._measure import Row, median_row, ratio_row, take_turns
from ico.layers import delta_rule, linear_attention, mesa, mesa_cg, mesa_decode

HEADS, WIDTH = 8, 64
LONG = 65_536
# In products of 2048 x 2048 matrices: forward, and with backward.
GOALS = {1024: (0.10, 0.70), 4096: (0.64, 2.6)}
LAM = jnp.ones(HEADS)
FLOOR = "nine 64 x 64 products a chunk and head, alone"


def _inputs(length: int, heads: int = HEADS):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 1, length, heads, WIDTH))
    q, k = (a / jnp.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    return q, k, v


def _scan(q, k, v):
    """Sherman and Morrison's recursion as anybody would write it, left to autodiff."""

    def step(state, at):
        (r, g), (q, k, v) = state, at
        rk = jnp.einsum("hde,he->hd", r, k)
        gain = rk / (1 + jnp.sum(k * rk, -1, keepdims=True))
        r = r - gain[:, :, None] * rk[:, None, :]
        g = g + v[:, :, None] * k[:, None, :]
        return (r, g), jnp.einsum("hvd,hd->hv", g, jnp.einsum("hde,he->hd", r, q))

    eye = jnp.broadcast_to(jnp.eye(WIDTH), (HEADS, WIDTH, WIDTH))
    return jax.lax.scan(step, (eye, jnp.zeros_like(eye)), (q[0], k[0], v[0]))[1][None]


def _products(q, k, v):
    """The floor: as many products as mesa's forward pass has, of their size, and nothing else.

    A position and head costs 18 D^2 floating-point operations at D = 64 in chunks of 64: 4 in the
    recursion, 2 in each of the seven products of a chunk. That is 0.035 of the large product at
    T = 1024 and 0.14 at 4096; what is more is the price of small products.
    """
    chunks = [jnp.moveaxis(a.reshape(-1, 64, HEADS, WIDTH), 2, 1) for a in (q, k, v)]

    def chunk(state, at):
        x, k, v = at
        for _ in range(3):
            x = (x @ state) @ jnp.swapaxes(k, -1, -2) @ v
        return state, x

    return jax.lax.scan(chunk, chunks[0][0], tuple(chunks))[1]


LAYERS = {
    "linear attention": linear_attention,
    "mesa": functools.partial(mesa, lam=LAM),
    "mesa, parallel": functools.partial(mesa, lam=LAM, form="parallel"),
    "mesa_cg, at most 30 steps": functools.partial(mesa_cg, reg=jnp.ones((HEADS, WIDTH))),
    "recursion, autodiff": _scan,
    "delta rule": lambda q, k, v: delta_rule(q, k, v, beta=jnp.ones(q.shape[:3])),
}


def _with_backward(layer):
    # Not linear in the output, or the backward pass could do without the forward one.
    return jax.value_and_grad(lambda q, k, v: jnp.mean(layer(q, k, v) ** 2), argnums=(0, 1, 2))


def _caller(function, inputs):
    compiled = jax.jit(function).lower(*inputs).compile()
    return lambda: jax.block_until_ready(compiled(*inputs))


def _at(length: int) -> list[Row]:
    matrix = jax.random.normal(jax.random.key(1), (2048, 2048))
    rows, inputs = [], _inputs(length)
    for place, passes in enumerate(("forward", "with backward")):
        calls = {"product": _caller(lambda a: a @ a, (matrix,))}
        for name, layer in LAYERS.items():
            calls[name] = _caller(_with_backward(layer) if place else layer, inputs)
        if not place:
            calls[FLOOR] = _caller(_products, inputs)
        seconds = take_turns(calls, rounds=7 if length < 4096 else 3, at_least=0.05)
        name = f"T = {length}, {passes}"
        for layer in (*LAYERS, *([] if place else [FLOOR])):
            goal = ("<=", GOALS[length][place]) if layer == "mesa" else None
            title = f"{name}: {layer} / product"
            rows.append(ratio_row(title, seconds[layer], seconds["product"], goal))
        for other, goal in (
            ("linear attention", None),
            ("mesa_cg, at most 30 steps", None if place else (">=", 12.0)),
            ("recursion, autodiff", (">=", 7.0) if place else None),
        ):
            title = f"{name}: {other} / mesa"
            rows.append(ratio_row(title, seconds[other], seconds["mesa"], goal))
    return rows


def _memory() -> Row:
    layer = _with_backward(functools.partial(mesa, lam=jnp.ones(1)))
    used = jax.jit(layer).lower(*_inputs(LONG, heads=1)).compile().memory_analysis()
    total = used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes
    return Row(f"memory with backward, one head, T = {LONG}", total / 2**30, "GB", goal=("<=", 2.0))


def _decode() -> list[Row]:
    """After prompts of two lengths: the state, so the time, is to be the same."""
    calls = {}
    for length in (64, 4096):
        _, state = jax.jit(functools.partial(mesa, lam=LAM, return_state=True))(*_inputs(length))
        token = (a[:, 0] for a in _inputs(1))
        calls[length] = _caller(mesa_decode, (state, *token))
    seconds = take_turns(calls, rounds=9, at_least=0.05)
    title = "decoding a token"
    return [
        median_row(f"{title} after {length}", [1e6 * s for s in found], "us")
        for length, found in seconds.items()
    ] + [ratio_row(f"{title}: after 4096 / after 64", seconds[4096], seconds[64])]


def run() -> list[Row]:
    """Times at two lengths, then memory at a great length, then decoding."""
    return [*_at(1024), *_at(4096), _memory(), *_decode()]
