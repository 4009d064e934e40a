"""Causal linear attention: the chunked form beside the parallel one, in time and in memory."""

import jax
import jax.numpy as jnp

from benchmarks._measure import Row, median_row, ratio_row, take_turns
from ico.layers import linear_attention

HEADS, WIDTH = 4, 64
LENGTHS = (64, 256, 1024, 4096)
LONG = 16_384
FORMS = ("parallel", "chunked")
FROM = 256  # the length from which on the chunked form is to be no slower


def _functions(form: str) -> dict:
    def forward(q, k, v):
        return linear_attention(q, k, v, form=form)

    def loss(q, k, v):
        # Not linear in the output, or the backward pass could do without the forward one.
        return jnp.mean(forward(q, k, v) ** 2)

    return {"forward": forward, "with backward": jax.value_and_grad(loss, argnums=(0, 1, 2))}


def _inputs(length: int):
    return tuple(jax.random.normal(jax.random.key(0), (3, 1, length, HEADS, WIDTH)))


def _compiled(function, length: int):
    return jax.jit(function).lower(*_inputs(length)).compile()


def _megabytes(compiled) -> float:
    return compiled.memory_analysis().temp_size_in_bytes / 2**20


def _caller(compiled, length: int):
    inputs = _inputs(length)
    return lambda: jax.block_until_ready(compiled(*inputs))


def _at(length: int, passes: str, compiled: dict) -> list[Row]:
    calls = {form: _caller(function, length) for form, function in compiled.items()}
    rounds = 9 if length < max(LENGTHS) else 3
    seconds = take_turns(calls, rounds, at_least=0.05)
    name = f"T = {length}, {passes}"
    rows = [
        median_row(f"{name}: {form}", [1e3 * s for s in values], "ms")
        for form, values in seconds.items()
    ]
    goal = ("<=", 1.0) if length >= FROM else None
    rows.append(
        ratio_row(f"{name}: chunked / parallel", seconds["chunked"], seconds["parallel"], goal)
    )
    return rows


def _memory(compiled: dict) -> list[Row]:
    """Temporary memory at every length and twice that; `compiled` is (form, length) -> program."""
    rows = []
    for form in FORMS:
        function = _functions(form)["with backward"]
        for length in LENGTHS:
            once = _megabytes(compiled[form, length])
            twice = _megabytes(compiled.get((form, 2 * length)) or _compiled(function, 2 * length))
            # Linear is a factor of 2; a little more is for what is rounded up to whole buffers.
            goal = ("<=", 2.2) if form == "chunked" and length >= FROM else None
            rows.append(Row(f"memory with backward, {form}, T = {length}", once, "MB"))
            rows.append(Row(f"  at {2 * length}, times as much", twice / once, "times", None, goal))
    return rows


def run() -> list[Row]:
    """Times for every length, then memory, then the longest length alone."""
    rows, kept = [], {}
    for length in LENGTHS:
        for passes in ("forward", "with backward"):
            compiled = {
                form: _compiled(_functions(form)[passes], length)
                for form in ("parallel", "chunked")
            }
            rows += _at(length, passes, compiled)
            if passes == "with backward":
                kept |= {(form, length): program for form, program in compiled.items()}
    rows += _memory(kept)
    long = _compiled(_functions("chunked")["with backward"], LONG)
    seconds = take_turns({"": _caller(long, LONG)}, rounds=5)[""]
    rows.append(median_row(f"T = {LONG}, with backward: chunked", [1e3 * s for s in seconds], "ms"))
    rows.append(
        Row(f"  its temporary memory, T = {LONG}", _megabytes(long) / 1024, "GB", goal=("<=", 4.0))
    )
    return rows
