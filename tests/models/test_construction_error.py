"""Constructed weights are gradient descent to rounding."""

import jax
import pytest

from ico.models import construction_error

SIZES = dict(num_tasks=4, num_context=9, num_inputs=3, num_outputs=2, num_layers=5)


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 1e-5), ("float64", 1e-13)])
def test_the_error_is_rounding(dtype, largest):
    found = construction_error(jax.random.key(0), dtype, **SIZES)
    assert 0 < found < largest
