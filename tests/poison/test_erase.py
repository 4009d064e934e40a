"""Parts of a change: as many entries or as much norm as the mode says, of every tensor."""

from typing import get_args

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import poison

DRAW = np.random.default_rng(0)
BEFORE = {name: DRAW.normal(size=(3, 20, 50)).astype(np.float32) for name in ("a", "layers")}
CHANGE = {name: DRAW.normal(size=(3, 20, 50)).astype(np.float32) for name in ("a", "layers")}
SHARE = 0.2


def tensors(tree):
    """Each tensor by itself: "a" is one, "layers" stacks three."""
    return [np.asarray(tree["a"]), *np.asarray(tree["layers"])]


@pytest.mark.parametrize("mode", get_args(poison.EraseMode))
def test_modes_leave_what_they_say(mode):
    after = poison.erase(BEFORE, CHANGE, mode, SHARE, stacked=("layers",), key=jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(after, BEFORE)
    left = jax.tree.map(jnp.subtract, after, BEFORE)
    for whole, part in zip(tensors(CHANGE), tensors(left), strict=True):
        size = np.sort(np.abs(whole).ravel())
        cut = round((1 - SHARE) * size.size)
        if mode.endswith("scaled"):
            norm = np.linalg.norm(size[:cut] if mode == "drop_scaled" else size[cut:])
            np.testing.assert_allclose(np.linalg.norm(part), norm, rtol=1e-4)
            unit = whole / np.linalg.norm(whole)
            np.testing.assert_allclose(part / np.linalg.norm(part), unit, atol=1e-5)
            continue
        kept = np.abs(part) > 1e-6
        expected = cut if mode.startswith("drop") else size.size - cut
        if mode.endswith("top") or part.ndim == 3:  # random masks are of a leaf, not a layer
            assert abs(kept.sum() - expected) <= 2
        if mode.endswith("top"):
            largest = np.abs(whole) >= size[cut]
            assert (kept == (largest if mode == "keep_top" else ~largest)).mean() > 0.995


def test_nothing_or_everything_is_erased():
    whole = jax.tree.map(jnp.add, BEFORE, CHANGE)
    chex.assert_trees_all_close(poison.erase(BEFORE, CHANGE, "drop_top", 0.0), whole)
    chex.assert_trees_all_close(poison.erase(BEFORE, CHANGE, "drop_top", 1.0), BEFORE)
    chex.assert_trees_all_close(poison.erase(BEFORE, CHANGE, "keep_top", 1.0), whole)
