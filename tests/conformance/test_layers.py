"""What every sequence layer of `ico.layers` owes, over the registry in tests/conformance/layers.py.

An exported layer without an entry there fails the first test.

Dimension key: S seeds, B batch, T positions, H heads, D key width, V value width.
"""

import functools
import inspect

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from ico import layers
from tests.conformance.layers import HELPERS, LAYERS, PER_HEAD, B, D, H, T, V, call, draw

S = 2
# Three packed sequences; the first and the last have equal ids, for a sequence starts wherever the
# id changes. Boundaries lie at a chunk's start (9) and inside one (13).
STARTS = (0, 9, 13, T)
SEGMENTS = (4,) * 9 + (1,) * 4 + (4,) * 8

FORMS = [(name, form) for name, layer in LAYERS.items() for form in layer.forms or (None,)]
each_layer = parameterized.named_parameters((name, name) for name in LAYERS)
# With rules of differentiation of their own, in every file that has some.
RULES = {("linear_attention, gated", "chunked"), ("delta_rule", "chunked"), ("mesa_cg", None)}
RULES |= {("mesa", "chunked"), ("mesa", "dense")}
each_form = parameterized.named_parameters((f"{n}, {f}" if f else n, n, f) for n, f in FORMS)
GATED = [name for name, layer in LAYERS.items() if "forget" in layer.arguments]
STATEFUL = [name for name in GATED if LAYERS[name].state]
each_gated = parameterized.named_parameters((name, name) for name in GATED)
each_stateful_form = parameterized.named_parameters(
    (f"{n}, {f}" if f else n, n, f) for n, f in FORMS if LAYERS[n].state
)


def single(tree):
    return jax.tree.map(lambda a: a.astype(jnp.float32), tree)


@functools.cache
def over_seeds(name, form):
    """The layer, compiled under vmap over seeds; its arguments and output for two of them."""
    layer = jax.jit(jax.vmap(functools.partial(call, name, form)))
    args = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(draw(name, s) for s in range(S)))
    return layer, args, layer(args)


@functools.cache
def with_jacobian(name, form):
    """Compiled: (arguments, segment ids) to (output, final state) and the Jacobian of both."""
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
    """Derivatives for symmetric matrices are defined only up to their antisymmetric part."""

    def part(a):
        square = a.ndim > 2 and a.shape[-2:] == (D, D)
        return (a + jnp.swapaxes(a, -1, -2)) / 2 if square else a

    return jax.tree.map(part, tree)


def gates(name):
    """Factors [B, T, H] of all sizes, in another order for every example and head.

    Where small factors leave a system nearly singular (`singular`), none is tiny but zeros.
    """
    sizes = (1, 0, 1, 0.5, 0, 0, 0.9, 0.3)
    sizes += (0.1, 0.2, 0.7, 0.8) if LAYERS[name].singular else (1e-3, 0.02, 1e-12, 1e-200)
    rng = np.random.default_rng(3)
    drawn = np.array([rng.permutation(np.resize(sizes, T)) for _ in range(B * H)])
    return jnp.asarray(drawn.reshape(B, H, T).swapaxes(1, 2))


def test_every_exported_layer_has_an_entry():
    functions = {n for n in layers.__all__ if inspect.isfunction(getattr(layers, n))}
    named = {name.split(",")[0] for name in LAYERS} | HELPERS
    assert not (functions - named), (
        f"{sorted(functions - named)} is exported from ico.layers: add an entry to LAYERS in "
        "tests/conformance/layers.py, or to HELPERS there if it is no sequence layer"
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
        """And vmap over seeds is each seed alone; outputs may come back as values."""
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
                empty = {n: a if n in PER_HEAD else a[:0] for n, a in args.items()}
                o = jax.eval_shape(functools.partial(call, name, form), empty)
                assert (o.shape, o.dtype) == ((0, length, H, V), dtype)
            if layer.state:
                with_state = functools.partial(call, name, form, return_state=True)
                _, last = jax.eval_shape(with_state, args)
                wanted = jax.eval_shape(lambda: layer.state(np.random.default_rng(0)))
                chex.assert_trees_all_equal_shapes(last, wanted)
                chex.assert_type(jax.tree.leaves(last), jnp.promote_types(dtype, jnp.float32))

    @each_form
    def test_an_empty_batch_is_answered_by_an_empty_one(self, name, form):
        """With segments, a final state and all gradients."""
        args = {n: a if n in PER_HEAD else a[:0] for n, a in draw(name).items()}
        sides = {"segment_ids": jnp.zeros((0, T), int), "return_state": True}
        sides = sides if LAYERS[name].state else {}

        def total(args):
            return sum(jnp.sum(a) for a in jax.tree.leaves(call(name, form, args, **sides)))

        chex.assert_trees_all_equal_shapes(jax.eval_shape(jax.grad(total), args), args)

    @parameterized.named_parameters((n, n) for n in LAYERS if "gated" not in n)
    def test_half_precision_is_for_storing(self, name):
        """The output is that of float32 on the same inputs, rounded once; with scores up to 300."""
        args = jax.tree.map(lambda a: a.astype(jnp.bfloat16), draw(name))
        args["q"] = 100 * args["q"]

        @jax.jit
        def both(args):
            form = (LAYERS[name].forms or (None,))[0]
            return call(name, form, args), call(name, form, single(args))

        half, whole = both(args)
        chex.assert_trees_all_close(single(half), whole, rtol=2**-8, atol=1e-6)

    @each_form
    def test_one_position_and_zeros_are_finite(self, name, form):
        """With their gradients, in float32."""

        def loss(args):
            return jnp.sum(jnp.sin(call(name, form, args) + 0.3))

        gradient = jax.jit(jax.value_and_grad(loss))
        args = single(draw(name, length=1))
        chex.assert_tree_all_finite(gradient(args))
        nothing = {a: jnp.zeros_like(args[a]) for a in "qkv"}
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
        flipped = {n: a if n in PER_HEAD else a[:, ::-1] for n, a in args.items()}
        chex.assert_trees_all_close(layer(flipped), o[:, ::-1], atol=1e-12)
        flipped = {n: a[:, ::-1] if n in PER_HEAD else a[:, :, :, ::-1] for n, a in args.items()}
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
            for argument in set(args) - PER_HEAD - {"state"}:
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

    @parameterized.named_parameters((f"{n}, {f}", n, f) for n, f in FORMS if (n, f) in RULES)
    def test_derivatives_of_both_modes_and_orders(self, name, form):
        self.check_derivatives(name, form)

    @parameterized.named_parameters((f"{n}, {f}", n, f) for n, f in FORMS if (n, f) not in RULES)
    @pytest.mark.slow
    def test_derivatives_of_both_modes_and_orders_of_all(self, name, form):
        self.check_derivatives(name, form)

    def check_derivatives(self, name, form):
        """jvp against vjp, and forward over reverse, as `jax.hessian` does, against differences."""
        given = draw(name, length=12)
        rng = np.random.default_rng(2)
        along = jax.tree.map(lambda a: jnp.asarray(rng.normal(size=a.shape)), given)
        along = symmetric({n: 0.01 * a for n, a in along.items()})

        def loss(args):
            return jnp.sum(jnp.sin(call(name, form, args)))

        @jax.jit
        def second(args):
            return jax.jvp(jax.grad(loss), (args,), (along,))

        (slope, change), h = second(given), 1e-4
        up, down = (
            second(jax.tree.map(lambda a, t, h=h: a + h * t, given, along))[0] for h in (h, -h)
        )
        wanted = jax.tree.map(lambda a, b: (a - b) / (2 * h), up, down)
        chex.assert_trees_all_close(change, wanted, atol=1e-6, rtol=1e-6)
        if form in LAYERS[name].reverse_alone:
            with pytest.raises(TypeError, match="form='recurrent', or .* reverse mode"):
                jax.jvp(loss, (given,), (along,))
            return
        found = jax.jit(lambda args: jax.jvp(loss, (args,), (along,))[1])(given)
        wanted = sum(jnp.sum(slope[n] * along[n]) for n in given)
        chex.assert_trees_all_close(found, wanted, rtol=1e-10)

    @parameterized.named_parameters((n, n) for n in GATED if LAYERS[n].forms)
    def test_every_form_is_right_for_every_gate(self, name):
        """Outputs, states and derivatives, in packed sequences, against one position at a time."""
        *forms, plain = LAYERS[name].forms
        args, *_ = packed(name, plain, SEGMENTS)
        ids = jnp.broadcast_to(jnp.asarray(SEGMENTS), (B, T))
        args = args | {"forget": gates(name)}
        wanted = symmetric(with_jacobian(name, plain)(args, ids))
        for form in forms:
            found = symmetric(with_jacobian(name, form)(args, ids))
            chex.assert_trees_all_close(found, wanted, rtol=1e-6, atol=1e-7)


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
                n: a if n in PER_HEAD else jnp.roll(a, -start, axis=2) for n, a in args.items()
            }
            apart = layer(moved)[0]
            chex.assert_trees_all_close(o[:, start:end], apart[:, : end - start], atol=1e-11)

    @parameterized.named_parameters((f"{n}, {f}", n, f) for n, f in FORMS if n in STATEFUL)
    def test_a_factor_of_zero_is_a_start(self, name, form):
        """As if a sequence began there, with a factor of one; derivatives of q, k and v too."""
        args, *_ = packed(name, form, SEGMENTS)
        here = jnp.array(STARTS[1:-1])
        zeros, ones = (args | {"forget": args["forget"].at[:, here].set(f)} for f in (0, 1))
        run = with_jacobian(name, form)
        ids = jnp.broadcast_to(jnp.asarray(SEGMENTS), (B, T))
        (found, slopes), (wanted, right) = run(zeros, jnp.zeros((B, T), int)), run(ones, ids)
        chex.assert_trees_all_close(found, wanted, atol=1e-11)
        for argument in "qkv":
            chex.assert_trees_all_close(slopes[0][argument], right[0][argument], atol=1e-11)

    @each_gated
    def test_gates_may_be_logarithms(self, name):
        """That of zero is minus infinity."""
        form = (LAYERS[name].forms or (None,))[0]
        layer, args, _ = over_seeds(name, form)
        args = args | {"forget": jnp.broadcast_to(gates(name), args["forget"].shape)}
        by_log = {n: a for n, a in args.items() if n != "forget"}
        found = layer(by_log | {"log_forget": jnp.log(args["forget"])})
        chex.assert_trees_all_close(found, layer(args), rtol=1e-9, atol=1e-11)

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
            now = {n: a if n in PER_HEAD else a[:, t] for n, a in given.items()}
            o_t, state = decode(state, [now.pop(a) for a in "qkv"], now)
            chex.assert_trees_all_close(o_t, o[:, t], atol=1e-11)
        chex.assert_trees_all_close(state, last, atol=1e-11)
