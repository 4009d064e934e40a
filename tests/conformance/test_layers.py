"""What every sequence layer of `ico.layers` owes, over one table of how each is called.

`LAYERS` is the registry: a layer that is exported and has no entry there fails the first test.

Dimension key: S seeds, B batch, T positions, H heads, D key width, V value width.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ico import layers

S, B, T, H, D, V = 2, 2, 21, 2, 3, 2
CHUNK = 9  # the last chunk is not full; nor are the strides of 8 that `mesa` has in a chunk
# Three packed sequences; the first and the last have equal ids, for a sequence starts wherever the
# id changes. Boundaries lie at a chunk's start (9) and inside one (13).
STARTS = (0, 9, 13, T)
SEGMENTS = (4,) * 9 + (1,) * 4 + (4,) * 8


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
    """

    apply: Callable
    arguments: tuple[str, ...] = ()
    options: dict[str, Any] = {}
    forms: tuple[str, ...] = ()
    linear: tuple[str, ...] = ("v",)
    causal: bool = True
    state: Callable | None = None
    decode: Callable | None = None


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


def chebyshev_attention(q, k, v, *, reg, forget=None, **options):
    """The approximate mesa layer of `chebyshev_queries`."""
    steps = layers.ChebyshevSteps(*jnp.full((2, 3, q.shape[2]), 0.2, reg.dtype))
    x = layers.chebyshev_queries(q, k, reg=reg[:, 0], steps=steps, forget=forget, **options)
    return layers.linear_attention(x, k, v, forget=forget, **options)


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
    decode=lambda *qkv, lam, **arguments: layers.mesa_decode(*qkv, **arguments),
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
    "mesa_cg": MESA_CG,
    "mesa_cg, gated": gated(MESA_CG),
    "chebyshev_queries": Layer(
        chebyshev_attention, ("reg", "forget"), {"chunk_size": CHUNK}, linear=("q", "v")
    ),
}
# Exported functions that are no layers: decoding, states, coefficients, solvers, gates.
HELPERS = {
    *("mesa_decode", "mesa_state", "mesa_cg_decode", "cap_forget"),
    *("chebyshev_steps", "neumann_steps", "newton_inverse"),
}

FORMS = [(name, form) for name, layer in LAYERS.items() for form in layer.forms or (None,)]
each_layer = parameterized.named_parameters((name, name) for name in LAYERS)
each_form = parameterized.named_parameters((f"{n}, {f}" if f else n, n, f) for n, f in FORMS)
each_stateful_form = parameterized.named_parameters(
    (f"{n}, {f}" if f else n, n, f) for n, f in FORMS if LAYERS[n].state
)


def draw(name, seed=0, batch=B, length=T):
    """q, k, v and all other arguments of a layer, in float64 where that is enabled."""
    rng = np.random.default_rng(seed)
    q, k = rng.normal(size=(2, batch, length, H, D))
    args = {
        "q": q,
        "k": k / np.linalg.norm(k, axis=-1, keepdims=True),
        "v": rng.normal(size=(batch, length, H, V)),
        "forget": rng.uniform(0.7, 1, size=(batch, length, H)),
        "beta": rng.uniform(0.2, 1, size=(batch, length, H)),
        "lam": np.asarray(positive(rng, H)),
        "reg": rng.uniform(0.5, 2, size=(H, D)),
    }
    args["forget"][:, 1:3] = 1  # where a clamp or a logarithm may have a wrong gradient
    return {a: jnp.asarray(args[a]) for a in ("q", "k", "v", *LAYERS[name].arguments)}


def single(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


def call(name, form, args, **more):
    """The layer in one of its forms."""
    args = dict(args)
    options = LAYERS[name].options | ({"form": form} if form else {}) | more
    return LAYERS[name].apply(args.pop("q"), args.pop("k"), args.pop("v"), **args, **options)


@functools.cache
def over_seeds(name, form):
    """The layer compiled over a leading axis of seeds, and what it gives for two of them."""
    layer = jax.jit(jax.vmap(functools.partial(call, name, form)))
    args = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(draw(name, s) for s in range(S)))
    return layer, args, layer(args)


@functools.cache
def with_jacobian(name, form):
    """The compiled layer, its final state, and the Jacobian of both: (args, segment ids) -> ..."""
    stateful = LAYERS[name].state is not None

    def run(args, segment_ids):
        args = dict(args)
        sides = {}
        if stateful:
            sides = {"initial_state": args.pop("state"), "segment_ids": segment_ids}
            sides["return_state"] = True
        out = call(name, form, args, **sides)
        return out, out

    def both(args, segment_ids):
        jacobian, out = jax.jacrev(run, has_aux=True)(args, segment_ids)
        return out, jacobian

    return jax.jit(both)


@functools.cache
def packed(name, form, ids):
    """Output, state and Jacobian of packed sequences that go on from an initial state."""
    args = draw(name)
    if LAYERS[name].state:
        args["state"] = LAYERS[name].state(np.random.default_rng(9))
    ids = jnp.broadcast_to(jnp.asarray(ids), (B, T))
    return args, *with_jacobian(name, form)(args, ids)


def symmetric(tree):
    """Of the derivative for a symmetric matrix only the symmetric part means anything."""

    def part(a):
        square = a.ndim > 2 and a.shape[-2:] == (D, D)
        return (a + jnp.swapaxes(a, -1, -2)) / 2 if square else a

    return jax.tree.map(part, tree)


def test_every_exported_layer_has_an_entry():
    functions = {n for n in layers.__all__ if inspect.isfunction(getattr(layers, n))}
    named = {name.split(",")[0] for name in LAYERS} | HELPERS
    assert not (functions - named), (
        f"{sorted(functions - named)} is exported from ico.layers: add an entry to LAYERS in "
        "tests/conformance/test_layers.py, or to HELPERS there if it is no sequence layer"
    )
    assert not (named - functions), f"{sorted(named - functions)} is not exported from ico.layers"


@pytest.mark.usefixtures("x64")
class Values(chex.TestCase):
    """Outputs: their shapes and types, and what they may depend on."""

    def setUp(self):
        super().setUp()
        chex.clear_trace_counter()

    @chex.variants(with_jit=True, without_jit=True)
    @each_layer
    def test_float32_is_near_float64_and_compiles_once(self, name):
        """One trace serves a second call, also with outputs for values; a seed axis is no more."""
        layer = LAYERS[name]
        form = (layer.forms or (None,))[0]

        def one(args):
            return call(name, form, args)

        one = self.variant(chex.assert_max_traces(one, 1) if "with_jit" in self.id() else one)
        _, _, exact = over_seeds(name, form)
        for seed in range(S):
            args = single(draw(name, seed))
            o = one(args)
            chex.assert_trees_all_close(np.float64(o), np.float64(exact[seed]), atol=2e-5)
        chex.assert_shape(one(args | {"v": o}), (B, T, H, V))

    @each_form
    def test_types_and_lengths(self, name, form):
        """Outputs have the dtype of v, states float32 at least; lengths 0 and 1 are allowed."""
        layer = LAYERS[name]
        for dtype in (jnp.bfloat16, jnp.float16, jnp.float32, jnp.float64):
            # Softmax attention refuses length zero: there is no key to attend to.
            for length in (1, T) if "softmax" in name else (0, 1, T):
                args = jax.tree.map(lambda a, d=dtype: a.astype(d), draw(name, length=length))
                o = jax.eval_shape(functools.partial(call, name, form), args)
                assert (o.shape, o.dtype) == ((B, length, H, V), dtype)
            if layer.state:
                last = jax.eval_shape(functools.partial(call, name, form, return_state=True), args)[
                    1
                ]
                wanted = jax.eval_shape(lambda: layer.state(np.random.default_rng(0)))
                chex.assert_trees_all_equal_shapes(last, wanted)
                chex.assert_type(jax.tree.leaves(last), jnp.promote_types(dtype, jnp.float32))

    @each_form
    def test_one_position_and_zeros_are_finite(self, name, form):
        """With their gradients, in float32."""

        def loss(args):
            return jnp.sum(jnp.sin(call(name, form, args) + 0.3))

        gradient = jax.jit(jax.value_and_grad(loss))
        args = single(draw(name, length=1))
        chex.assert_tree_all_finite(gradient(args))
        nothing = {a: jnp.zeros_like(args[a]) for a in ("q", "k", "v")}
        chex.assert_tree_all_finite(gradient(args | nothing))

    @each_form
    def test_linear_where_it_says_so(self, name, form):
        layer, args, o = over_seeds(name, form)
        other = jax.tree.map(lambda a: a[::-1], args)
        for argument in LAYERS[name].linear:
            theirs = layer(args | {argument: other[argument]})
            ours = layer(args | {argument: 3 * args[argument] - 2 * other[argument]})
            chex.assert_trees_all_close(ours, 3 * o - 2 * theirs, atol=1e-10)
            assert np.abs(theirs - o).max() > 1e-2

    @each_form
    def test_the_order_of_batch_and_heads_is_nothing(self, name, form):
        layer, args, o = over_seeds(name, form)
        by_head = {a for a in ("lam", "reg") if a in args}
        flipped = {n: a if n in by_head else a[:, ::-1] for n, a in args.items()}
        chex.assert_trees_all_close(layer(flipped), o[:, ::-1], atol=1e-12)
        flipped = {n: a[:, ::-1] if n in by_head else a[:, :, :, ::-1] for n, a in args.items()}
        chex.assert_trees_all_close(layer(flipped), o[:, :, :, ::-1], atol=1e-12)
        assert np.abs(o - o[:, ::-1]).max() > 1e-2 and np.abs(o - o[:, :, :, ::-1]).max() > 1e-2

    @each_form
    def test_the_future_changes_no_bit_of_the_past(self, name, form):
        """However large it is: a masked product with it is zero, not infinite times zero."""
        if not LAYERS[name].causal:
            return
        layer, args, o = over_seeds(name, form)
        for t in (1, STARTS[1], STARTS[2], T - 1):
            large = {n: args[n].at[:, :, t:].set(7 - 1e3 * args[n][:, :, t:]) for n in "qkv"}
            other = layer(args | large)
            chex.assert_trees_all_equal(other[:, :, :t], o[:, :, :t])
            assert np.abs(other[:, :, t:] - o[:, :, t:]).max() > 1e-2

    @parameterized.named_parameters((n, n) for n, a in LAYERS.items() if not a.causal)
    def test_without_a_mask_the_order_of_keys_is_nothing(self, name):
        for form in LAYERS[name].forms or (None,):
            layer, args, o = over_seeds(name, form)
            flipped = {"k": args["k"][:, :, ::-1], "v": args["v"][:, :, ::-1]}
            chex.assert_trees_all_close(layer(args | flipped), o, atol=1e-12)
            assert np.abs(layer(args | {"k": flipped["k"]}) - o).max() > 1e-2


@pytest.mark.usefixtures("x64")
class Derivatives(chex.TestCase):
    """What reaches an output: its own example, head and sequence, and not the future."""

    @each_form
    def test_causal_by_gradient_within_example_head_and_sequence(self, name, form):
        layer = LAYERS[name]
        for ids in (SEGMENTS, (0,) * T) if layer.state else ((0,) * T,):
            args, out, jacobian = packed(name, form, ids)
            chex.assert_tree_all_finite((out, jacobian))
            jacobian = jacobian[0] if layer.state else jacobian
            t, s = np.mgrid[:T, :T]
            runs = np.cumsum(np.diff(ids, prepend=ids[0]) != 0)
            own = (runs[:, None] == runs) & (s <= t) if layer.causal else np.ones((T, T), bool)
            same_BHBH = np.eye(B * H).reshape(B, H, B, H) == 1
            for argument in set(args) - {"lam", "reg", "state"}:
                reach = own & (s == t) if argument == "q" else own
                slope = np.abs(jacobian[argument])
                slope = slope.reshape(B, T, H, V, B, T, H, -1).sum((3, 7))
                slope = slope.transpose(0, 2, 3, 5, 1, 4)  # [B, H, B, H, T, T]
                assert (slope[~same_BHBH] == 0).all(), "another example or head"
                # Gates add up to logarithms, whose differences leave rounding errors.
                limit = 1e-12 if argument == "forget" else 0
                assert (slope[same_BHBH][:, ~reach] <= limit).all(), "a later position or sequence"
                # Softmax over one key does not depend on it; a gate acts on what was there before.
                start = np.isin(s, np.flatnonzero(np.diff(runs, prepend=-1)))
                late = reach & ~start if argument != "v" and layer.causal else reach
                assert (slope[same_BHBH][:, late] > 0).all(), argument

    @parameterized.named_parameters((n, n) for n, a in LAYERS.items() if len(a.forms) > 1)
    def test_all_forms_are_one_function(self, name):
        """Outputs, final states, and the derivatives of both in every argument.

        With an initial state and packed sequences.
        """
        first, *others = (
            symmetric(packed(name, form, SEGMENTS)[1:]) for form in LAYERS[name].forms
        )
        for other in others:
            chex.assert_trees_all_close(other, first, atol=1e-11, rtol=1e-9)


@pytest.mark.usefixtures("x64")
class States(chex.TestCase):
    """Layers that carry a state: packed sequences, and decoding."""

    @each_stateful_form
    def test_packed_sequences_are_the_sequences_apart(self, name, form):
        """Sequences after the first: the initial state does not reach them."""
        layer, args, _ = over_seeds(name, form)
        _, (o, _), _ = packed(name, form, SEGMENTS)
        for start, end in zip(STARTS[1:-1], STARTS[2:], strict=True):
            # Each later sequence moved to the front, where nothing comes before it.
            moved = {
                n: a if n in ("lam", "reg") else jnp.roll(a, -start, axis=2)
                for n, a in args.items()
            }
            apart = layer(moved)[0]
            chex.assert_trees_all_close(o[:, start:end], apart[:, : end - start], atol=1e-11)

    @each_stateful_form
    def test_decoding_is_the_whole(self, name, form):
        """From the initial state, position by position; the last state is that of the whole."""
        chex.clear_trace_counter()
        (given, (o, last), _), (_, (o_packed, _), _) = (
            packed(name, form, ids) for ids in ((0,) * T, SEGMENTS)
        )
        chex.assert_trees_all_close(o_packed[:, : STARTS[1]], o[:, : STARTS[1]], atol=1e-11)

        def decode(state, qkv, others):
            return LAYERS[name].decode(state, *qkv, **others)

        decode = jax.jit(chex.assert_max_traces(decode, 1))
        given = dict(given)
        state = given.pop("state")
        for t in range(T):
            now = {n: a if n in ("lam", "reg") else a[:, t] for n, a in given.items()}
            o_t, state = decode(state, [now.pop(a) for a in ("q", "k", "v")], now)
            chex.assert_trees_all_close(o_t, o[:, t], atol=1e-11)
        chex.assert_trees_all_close(state, last, atol=1e-11)


def wrong(name):
    """Changes that do not fit, each with what the message names."""
    layer, args = LAYERS[name], draw(name)
    four = ("q", "k", "v")
    changes = [({a: args[a][0]}, a) for a in four]  # an axis is missing
    changes += [({a: args[a][:1]}, a) for a in four]  # the batch
    changes += [({a: args[a][:, :, :1]}, a) for a in four]  # the heads
    changes += [({a: args[a][..., :-1]}, a) for a in ("q", "k")]  # the width
    changes += [({"v": args["v"][:, :-1]}, "v")]  # the length
    if layer.causal:
        changes += [({"q": args["q"][:, :-1]}, "q")]
    for a in layer.arguments:
        changes += [({a: args[a][:1]}, a), ({a: args[a][..., None, None, None]}, a)]
    if layer.forms:
        changes += [({"form": "scan"}, "form")]
    if "chunk_size" in layer.options:
        changes += [({"chunk_size": 0}, "chunk_size")]
    if layer.state:
        changes += [({"segment_ids": jnp.zeros((B, T + 1), int)}, "segment_ids")]
        state = layer.state(np.random.default_rng(0))
        cut = jax.tree.map(lambda a: a[:, :1], state)
        if isinstance(state, tuple):
            cuts = [(state._replace(**{f: getattr(cut, f)}), f) for f in state._fields]
            changes += [({"initial_state": c}, rf"initial_state\.{f}") for c, f in cuts]
        else:
            changes += [({"initial_state": cut}, "initial_state")]
    return args, changes


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_arguments_are_refused_by_name(name, annotations_off):
    args, changes = wrong(name)
    for change, named in changes:
        with pytest.raises(ValueError, match=rf"\b{named}\b"):
            options = {k: a for k, a in change.items() if k == "chunk_size"}
            form = change.get("form")
            given = args | {k: a for k, a in change.items() if k not in ("form", "chunk_size")}
            jax.eval_shape(functools.partial(call, name, form, **options), given)
