"""The examples in docstrings run."""

import doctest
import importlib

import pytest


@pytest.mark.parametrize(
    "name",
    [
        "_averaging",
        pytest.param("_l3rs", marks=pytest.mark.slow),  # compiles for seconds
        "_sparse",
        "_subspace",
        "_with_loss",
    ],
)
def test_examples(name):
    found = doctest.testmod(importlib.import_module(f"ico.optim.{name}"))
    assert found.attempted and not found.failed
