"""What a checkpoint is of: the structure of the state, its leaves, and the optimizer by its parts.

Two optimizers may have states of one structure (Adam and Nadam, RAdam, AdaMax), so the functions
that an optimizer is composed of count as well. Numbers among its hyperparameters do not: a run may
go on with another learning rate.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
import optax

from ico.train import _processes
from ico.train._state import TrainState

PyTree = Any
_MOST_PARTS = 1_000


def describe_leaves(state: TrainState, crc: bool = True) -> dict[str, dict[str, Any]]:
    """Leaf path -> shape, dtype and, if asked, CRC-32 of its bytes."""
    described: dict[str, dict[str, Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        described[name] = {"shape": list(leaf.shape), "dtype": str(leaf.dtype)}
        if crc:
            value = np.ascontiguousarray(_processes.whole(leaf))
            described[name]["crc32"] = zlib.crc32(value.tobytes())
    return described


def structure(tree: PyTree) -> str:
    """The types of a tree's nodes and the names of their children, such as "Adam(count, mu{w})"."""
    if tree is None:
        return "None"
    kind = type(tree).__name__
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return f"{kind}({_children(zip(tree._fields, tree, strict=True))})"
    if isinstance(tree, Mapping):
        brackets = "{}" if type(tree) is dict else f"{kind}{{}}"
        return f"{brackets[:-1]}{_children(sorted(tree.items(), key=str))}{brackets[-1]}"
    if isinstance(tree, list | tuple):
        return f"{kind}[{_children(('', child) for child in tree)}]"
    if jax.tree_util.all_leaves([tree]):
        return ""
    children, _ = jax.tree_util.default_registry.flatten_one_level(tree)
    return f"{kind}[{_children(('', child) for child in children)}]"


def _children(named: Any) -> str:
    return ", ".join(f"{name}{structure(child)}" for name, child in named)


def parts(optimizer: Any) -> list[str] | None:
    """The functions an optimizer is composed of, and what they are set to but for numbers.

    Such as ["chain", "scale", "scale_by_adam", "scale_by_adam: nesterov=False"].

    Returns:
      Sorted, each once; None without an optimizer.
    """
    if optimizer is None:
        return None
    return sorted(set(_parts("", getattr(optimizer, "update", optimizer), {})))


def _parts(owner: str, value: Any, seen: dict[int, Any]) -> Iterator[str]:
    """The parts of a function, from what it closes over; of a container, those of its items.

    Args:
      owner: the function that holds the value.
      value: of a variable that a function closes over.
      seen: what was looked at before, by its id; it is held, so that no id is used twice.
    """
    if id(value) in seen or len(seen) > _MOST_PARTS:
        return
    seen[id(value)] = value
    if isinstance(value, functools.partial):
        yield from _parts(owner, value.func, seen)
        yield from _parts(owner, value.args, seen)
        yield from _settings(owner, value.keywords, seen)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _parts(owner, item, seen)
    elif isinstance(value, Mapping):
        yield from _settings(owner, value, seen)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        yield from _settings(owner, fields, seen)
    elif inspect.ismethod(value):
        name = value.__qualname__.split(".<locals>")[0]
        yield name
        yield from _settings(name, getattr(value.__self__, "__dict__", {}), seen)
    elif callable(value):
        function = inspect.unwrap(value)
        name = getattr(function, "__qualname__", type(function).__qualname__)
        name = name.split(".<locals>")[0]
        yield name
        yield from _settings(name, _closure(function), seen)


def _settings(owner: str, named: Mapping[Any, Any], seen: dict[int, Any]) -> Iterator[str]:
    """Booleans and words as they are, and the parts of everything else but numbers."""
    for name, value in named.items():
        words = isinstance(value, tuple) and value and all(isinstance(x, str) for x in value)
        if isinstance(value, bool | str) or words:
            yield f"{owner}: {name}={value!r}"
        else:
            yield from _parts(owner, value, seen)


def _closure(function: Callable) -> dict[str, Any]:
    """The variables that a function closes over."""
    names = getattr(getattr(function, "__code__", None), "co_freevars", ())
    found = {}
    for name, cell in zip(names, getattr(function, "__closure__", None) or (), strict=False):
        with contextlib.suppress(ValueError):  # not yet assigned
            found[name] = cell.cell_contents
    return found


def identity(state: TrainState, optimizer: Any) -> dict[str, Any]:
    """What is recorded of a state beside its leaves, for `difference`."""
    return {
        "params": structure(state.params),
        "opt_state": structure(state.opt_state),
        "optimizer": parts(optimizer),
        "optax": optax.__version__,  # another version may be composed of other functions
    }


def difference(
    leaves: Mapping[str, Any], found: Mapping[str, Any], state: TrainState, optimizer: Any
) -> str | None:
    """How what was recorded differs from a state: a phrase for a message, None if it does not.

    Args:
      leaves: recorded leaves, as of `describe_leaves`.
      found: recorded identity; empty for checkpoints of before there was one.
      state: wanted.
      optimizer: of the wanted state; None does not compare it.
    """
    here = identity(state, optimizer)
    wanted = describe_leaves(state, crc=False)
    apart = _leaf_apart(leaves, wanted)
    if apart and not apart.startswith("opt_state"):
        return f"of another model: leaf {_leaf(apart, leaves, wanted)}"
    if found and found["params"] != here["params"]:
        return "of another model: its parameters are " + _apart(found["params"], here["params"])
    if found and found["optax"] == here["optax"] and found["optimizer"] and here["optimizer"]:
        there, mine = set(found["optimizer"]), set(here["optimizer"])
        if there != mine:
            return f"of another optimizer: {_only(there - mine)} there, {_only(mine - there)} here"
    if apart:
        return f"of another optimizer: leaf {_leaf(apart, leaves, wanted)}"
    if found and found["opt_state"] != here["opt_state"]:
        return "of another optimizer: its state is " + _apart(found["opt_state"], here["opt_state"])
    return None


def _leaf_apart(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str | None:
    """The first leaf that differs, those outside the optimizer's state first."""
    names = [name for name in [*wanted, *found] if _said(found, name) != _said(wanted, name)]
    names.sort(key=lambda name: name.startswith("opt_state"))
    return names[0] if names else None


def _leaf(name: str, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    return f"{name!r} is {_said(found, name)} there and {_said(wanted, name)} here"


def _said(leaves: Mapping[str, Any], name: str) -> str:
    leaf = leaves.get(name)
    return f"{leaf['dtype']}{leaf['shape']}" if leaf else "missing"


def _apart(there: str, here: str) -> str:
    """Two descriptions from a little before the place where they part."""
    same = next((i for i, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), None)
    start = max(0, (min(len(there), len(here)) if same is None else same) - 30)
    return f"{there[start : start + 60]!r} there and {here[start : start + 60]!r} here"


def _only(names: set[str]) -> str:
    return ", ".join(sorted(names)[:3]) or "nothing of its kind"
