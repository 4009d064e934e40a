"""Models and functions as specifications: what they are called, made with, and made of."""

from __future__ import annotations

import ast
import dataclasses
import functools
import hashlib
import inspect
import sys
import textwrap
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flax import linen as nn


def describe(value: Any, lenient: bool = False) -> Any:
    """A model or function as a specification, in which equal things are equal in every process.

    A function counts with its module, its name, its defaults and its own code (comments and
    docstrings apart, and without the code that it calls); a Linen module with its class and fields.

    Args:
      value: a Linen module, a function of a module, `functools.partial` of one, or None.
      lenient: whether what depends on more than that (closures, methods, callable objects) counts
        by its name and code alone, since the rest is specified elsewhere.

    Raises:
      TypeError: (unless lenient) there is no such description.
    """
    if value is None:
        return None
    if isinstance(value, nn.Module):
        # `parent` and `name` say where a module stands, not what it is.
        fields = [f.name for f in dataclasses.fields(value) if f.name not in ("parent", "name")]
        kind, name = type(value), type(value).__name__
        if not kind.__module__.startswith("ico.models"):  # those are found by their name alone
            name = f"{_module_of(kind)}.{kind.__qualname__}"
        arguments = {field: _plain(getattr(value, field)) for field in fields}
        return {"class": name, "arguments": arguments, "code": code_of(kind)}
    if isinstance(value, functools.partial):
        called = describe(value.func, lenient)
        arguments = [_plain(list(value.args), lenient), _plain(dict(value.keywords), lenient)]
        return {"function": called, "arguments": arguments}
    closes = _closes(value)
    function = inspect.unwrap(value) if callable(value) else value  # annotations' checks wrap it
    name = getattr(function, "__qualname__", type(function).__qualname__)
    whole = f"{_module_of(function)}.{name}"
    code = code_of(function)
    if (closes or "<lambda>" in name or ("<locals>" in name and code is None)) and not lenient:
        raise TypeError(
            f"{whole} depends on what its name does not tell; give lab.train `spec`, or make it a "
            "functools.partial of a function of the module"
        )
    defaults = [getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)]
    described = {"function": whole, "code": code}
    return described | ({"defaults": _plain(defaults, True)} if any(defaults) else {})


def code_of(function: Callable | type) -> str | None:
    """A hash of a function's or class's code without comments and docstrings, if it can be read."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):
        return None
    nodes: list[Any] = list(ast.walk(tree))
    for node in nodes:
        body = getattr(node, "body", None)
        if isinstance(body, list) and body and isinstance(body[0], ast.Expr):
            if isinstance(getattr(body[0].value, "value", None), str):
                node.body = body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:12]


def _closes(value: Any) -> bool:
    """Whether it depends on more than its code: a closure at any level of wrapping, an object."""
    while True:
        if inspect.ismethod(value):
            return True
        code = getattr(value, "__code__", None)
        checks = code is not None and any(
            word in code.co_filename for word in ("jaxtyping", "beartype")
        )
        if getattr(value, "__closure__", None) and not checks:
            return True
        if not hasattr(value, "__wrapped__"):
            return not isinstance(value, types.FunctionType | types.BuiltinFunctionType)
        value = value.__wrapped__


def _plain(value: Any, lenient: bool = True) -> Any:
    """Fields and arguments: functions, classes and types by their names, all else as it is."""
    if isinstance(value, nn.Module | functools.partial | types.FunctionType):
        return describe(value, lenient)
    if isinstance(value, Mapping):
        return {str(key): _plain(item, lenient) for key, item in value.items()}
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        return [_plain(item, lenient) for item in value]
    if callable(value) and not dataclasses.is_dataclass(value) and hasattr(value, "__name__"):
        return f"{getattr(value, '__module__', '')}.{value.__name__}"  # jnp.float32, a class
    return value


def _module_of(value: Any) -> str:
    """Its module; that of a launched file is named as when it is imported."""
    module = getattr(value, "__module__", None) or type(value).__module__
    if module != "__main__":
        return module
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    return spec.name if spec else Path(getattr(main, "__file__", None) or "__main__").stem
