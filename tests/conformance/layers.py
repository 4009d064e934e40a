"""The registry of sequence layers that tests/conformance/test_layers.py runs over.

Dimension key: B batch, T positions, H heads, D key width, V value width.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ico import layers
from ico.types import working_dtype

B, T, H, D, V = 2, 21, 2, 3, 2
CHUNK = 9  # the last chunk is not full; nor are the strides of 8 that `mesa` has in a chunk


class Layer(NamedTuple):
    """How a layer is called and what holds for it.

    Fields:
      apply: `apply(q, k, v, **arguments, **options)`, to [B, T, H, V].
      arguments: beside q, k, v: those of the positions, [B, T, H], and those of the heads.
      options: the same in all calls.
      forms: values of `form`; none if the layer has no such option.
      linear: the arguments that the output is linear in.
      causal: whether position t sees only keys up to t.
      state: draws an initial state, if the layer takes one; it then also takes `segment_ids` and
        `return_state`.
      decode: `decode(state, q, k, v, **arguments)`, one position, to (output, state).
      reverse_alone: forms that have no forward-mode derivative.
      singular: whether small forget factors leave a system that is nearly singular.
    """

    apply: Callable
    arguments: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    forms: tuple[str, ...] = ()
    linear: tuple[str, ...] = ("v",)
    causal: bool = True
    state: Callable | None = None
    decode: Callable | None = None
    reverse_alone: tuple[str, ...] = ()
    singular: bool = False


def positive(rng, *batch):
    """Symmetric positive definite matrices, well conditioned."""
    a = rng.normal(size=(*batch, D, D))
    return jnp.asarray(a @ np.swapaxes(a, -1, -2) / D + np.eye(D))


def memory(rng):
    return jnp.asarray(rng.normal(size=(B, H, V, D)))


def one_step(layer):
    """Decoding by a layer that has no function for it: a sequence of one position."""

    def decode(state, *qkv, **arguments):
        qkv, arguments = jax.tree.map(lambda a: a[:, None], (qkv, arguments))
        o, state = layer(
            *qkv, **arguments, initial_state=state, form="recurrent", return_state=True
        )
        return o[:, 0], state

    return decode


def chebyshev_attention(q, k, v, *, reg, **options):
    """The approximate mesa layer of `chebyshev_queries`."""
    q = q.astype(working_dtype(q))  # queries between the two layers are not rounded
    steps = layers.ChebyshevSteps(*jnp.full((2, 3, q.shape[2]), 0.2, q.dtype))
    x = layers.chebyshev_queries(q, k, reg=reg[:, 0], steps=steps, **options)
    return layers.linear_attention(x, k, v, **options)


LINEAR = Layer(
    layers.linear_attention,
    options={"chunk_size": CHUNK},
    forms=("chunked", "parallel", "recurrent"),
    linear=("q", "k", "v"),
    state=memory,
    decode=one_step(layers.linear_attention),
)
DELTA = LINEAR._replace(
    apply=layers.delta_rule,
    arguments=("beta",),
    forms=("chunked", "recurrent"),
    linear=("q", "v"),
    decode=one_step(layers.delta_rule),
)
MESA = Layer(
    layers.mesa,
    arguments=("lam",),
    options={"chunk_size": CHUNK},
    forms=("chunked", "parallel", "recurrent", "dense"),
    linear=("q", "v"),
    state=lambda rng: layers.MesaState(positive(rng, B, H), memory(rng)),
    decode=layers.mesa_decode,
    reverse_alone=("chunked", "parallel"),
    singular=True,
)
MESA_CG = Layer(
    layers.mesa_cg,
    arguments=("reg", "beta"),
    options={"chunk_size": CHUNK, "num_steps": 9},
    linear=("q", "v"),
    state=lambda rng: layers.MesaCgState(positive(rng, B, H), memory(rng)),
    decode=layers.mesa_cg_decode,
)


def gated(layer):
    return layer._replace(arguments=(*layer.arguments, "forget"))


PER_HEAD = {"lam", "reg"}  # arguments that have no axes of batch and positions

# Add a new layer here.
LAYERS = {
    "softmax_attention": Layer(layers.softmax_attention),
    "softmax_attention, all keys": Layer(
        layers.softmax_attention, options={"causal": False}, causal=False
    ),
    "linear_attention": LINEAR,
    "linear_attention, gated": gated(LINEAR),
    "linear_attention, all keys": LINEAR._replace(
        options={"causal": False}, causal=False, state=None, decode=None
    ),
    "delta_rule": DELTA,
    "delta_rule, gated": gated(DELTA),
    "mesa": MESA,
    "mesa, gated": gated(MESA),
    "mesa_all_keys": Layer(layers.mesa_all_keys, ("lam",), linear=("v",), causal=False),
    "mesa_cg": MESA_CG,
    "mesa_cg, gated": gated(MESA_CG),
    "chebyshev_queries": Layer(
        chebyshev_attention, ("reg", "forget"), {"chunk_size": CHUNK}, linear=("q", "v")
    ),
}
# Exported functions that are no layers: decoding, states, coefficients, solvers, gates.
HELPERS = {
    "toeplitz",
    *("mesa_decode", "mesa_state", "mesa_cg_decode", "cap_forget"),
    *("chebyshev_steps", "neumann_steps", "newton_inverse"),
}


def draw(name, seed=0, length=T):
    """q, k, v and all other arguments of a layer, in float64 where that is enabled."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, B, length, H, D))
    args = {
        "q": q,
        "k": k / np.linalg.norm(k, axis=-1, keepdims=True),
        "v": rng.normal(size=(B, length, H, V)),
        "forget": rng.uniform(0.7, 1, size=(B, length, H)),
        "beta": rng.uniform(0.2, 1, size=(B, length, H)),
        "lam": np.asarray(positive(rng, H)),
        "reg": rng.uniform(0.5, 2, size=(H, D)),
    }
    args["forget"][:, 1:3] = 1  # where a clamp or a logarithm may have a wrong gradient
    return {a: jnp.asarray(args[a]) for a in ("q", "k", "v", *LAYERS[name].arguments)}


def call(name, form, args, **more):
    """The layer in one of its forms."""
    args = dict(args)
    options = LAYERS[name].options | ({"form": form} if form else {}) | more
    return LAYERS[name].apply(args.pop("q"), args.pop("k"), args.pop("v"), **args, **options)
