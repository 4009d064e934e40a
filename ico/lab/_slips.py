"""Whether a claim asks for what a run left out, or for what the code gives to no record: a slip."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

# What asks for records: names in these calls are no evidence that a record is called so.
_ASKING = {"claim", "figure", "table", "mean", "ratio", "difference", "reduction", "exact"}
_ASKING |= {"every", "controlled", "falls", "lines", "bars", "points", "maps", "rows", "gaps"}


def is_given(name: str, files: Iterable[Path]) -> bool:
    """Whether code that gives records may call one, or a value of one, by this name.

    It may if the name is a string, a keyword or a field in it, or fits an f-string of it. Where
    the code cannot be read there is no telling, and the answer is yes.
    """
    try:
        trees = [ast.parse(file.read_bytes()) for file in files]
    except (OSError, SyntaxError, ValueError):
        return True
    patterns = [pattern for tree in trees for pattern in _given(tree)]
    return not patterns or any(re.fullmatch(pattern, name) for pattern in patterns)


def _given(node: ast.AST) -> Iterator[str]:
    """Patterns of the names in a piece of code, without those that it only asks for."""
    if isinstance(node, ast.Call) and _called(node.func) in _ASKING:
        return
    if isinstance(node, ast.Constant):
        if isinstance(node.value, str):
            yield re.escape(node.value)
    elif isinstance(node, ast.JoinedStr):
        yield "".join(
            re.escape(str(part.value)) if isinstance(part, ast.Constant) else ".*"
            for part in node.values
        )
    elif isinstance(node, ast.keyword):
        yield re.escape(node.arg or "")
        if node.arg == "record":
            return
    elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
        yield re.escape(node.target.id)
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.Subscript) and child is node.slice):
            yield from _given(child)


def _called(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
