"""Wrong arguments of every sequence layer are refused, by their names.

Dimension key: B batch, T positions, H heads, D key width, V value width.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conformance.layers import LAYERS, B, T, call, draw

GATED = [name for name, layer in LAYERS.items() if "forget" in layer.arguments]


def wrong(name):
    """Changes that do not fit, each with what the message names."""
    layer, args = LAYERS[name], draw(name)
    changes = [({a: args[a][0]}, a) for a in "qkv"]  # an axis is missing
    changes += [({a: args[a][:1]}, a) for a in "qkv"]  # the batch
    changes += [({a: args[a][:, :, :1]}, a) for a in "qkv"]  # the heads
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


@pytest.mark.parametrize("name", GATED)
def test_gates_that_are_none_are_refused(name):
    """Where values are known, in every form; a message names the argument."""
    args = {n: jnp.asarray(a, jnp.float32) for n, a in draw(name, length=2).items()}
    forget = args.pop("forget")
    for form in LAYERS[name].forms or (None,):
        for wrong in (1.5, -0.1, np.nan):
            with pytest.raises(ValueError, match="^forget must lie between 0 and 1"):
                call(name, form, args | {"forget": forget.at[1, 1, 0].set(wrong)})
        for wrong in (0.1, np.nan):
            with pytest.raises(ValueError, match="^log_forget must be at most 0"):
                call(name, form, args | {"log_forget": jnp.full_like(forget, wrong)})
        with pytest.raises(ValueError, match="forget or log_forget.* not both"):
            call(name, form, args | {"forget": forget, "log_forget": jnp.log(forget)})


@pytest.mark.parametrize("name", LAYERS)
def test_wrong_arguments_are_refused_by_name(name, annotations_off):
    args, changes = wrong(name)
    for change, named in changes:
        with pytest.raises(ValueError, match=rf"\b{named}\b"):
            options = {k: a for k, a in change.items() if k == "chunk_size"}
            form = change.get("form")
            given = args | {k: a for k, a in change.items() if k not in ("form", "chunk_size")}
            jax.eval_shape(functools.partial(call, name, form, **options), given)
