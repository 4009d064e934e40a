"""The floors of the design: nothing imports upwards or in circles; implementation is private."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CODE = ("ico", "experiments", "tests", "colabs", "benchmarks")

# What each room of ico may import of ico. `types` is the ground they all stand on.
ALLOWED = {
    "types": set(),
    "files": set(),
    "layers": set(),
    "tasks": set(),
    "probes": set(),
    "losses": set(),
    "algorithms": {"tasks"},  # the loss that rates are searched by stands once
    "optim": {"files"},
    "data": {"files"},
    "report": {"files"},
    "models": {"layers", "algorithms", "files"},  # some hold an algorithm's numbers as parameters
    "lm": {"layers", "data", "files"},
    "_compare": {"tasks", "algorithms"},
    "train": {"optim", "files"},
    "_run": {"models", "train", "files"},
    "peers": {"losses"},
    "metatrain": {"optim", "train", "files"},
    "worlds": {"lm", "train", "data", "files"},
    "poison": {"worlds", "lm", "optim", "train", "data", "report", "files"},
    "lab": {"models", "tasks", "optim", "train", "report", "files"},
}

# What the ground floor may import of others, beside the standard library.
JAX_ALONE = {"jax", "jaxtyping", "numpy"}
THIRD_PARTY = {
    "types": JAX_ALONE,
    "layers": JAX_ALONE,
    "tasks": JAX_ALONE,
    "algorithms": JAX_ALONE | {"scipy"},  # L-BFGS, for the best rates
    "probes": JAX_ALONE,
    "optim": JAX_ALONE | {"optax"},
}

# Modules that are names of the public interface themselves, as `ico.algorithms.constructions`.
PUBLIC_MODULES = {
    "ico/report/panels.py",
    "ico/types.py",
    "ico/algorithms/constructions.py",
    "ico/train/artifacts.py",
    "ico/train/checkpoint.py",
    "ico/train/compilation.py",
    "ico/train/mesh.py",
}


def sources(*folders):
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sources("ico", "experiments")}


def imported(path, nodes=ast.walk):
    """Full names of the modules that a file imports (of those given by `nodes`)."""
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    for node in nodes(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = ".".join([*up, node.module or ""]).strip(".") if node.level else node.module
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in MODULES else base


def room(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def ids(paths):
    return [str(path.relative_to(ROOT)) for path in paths]


ICO = [path for path in sources("ico") if path != ROOT / "ico" / "__init__.py"]


@pytest.mark.parametrize("path", ICO, ids=ids(ICO))
def test_nothing_imports_upwards(path):
    here = room(name_of(path))
    assert here in ALLOWED, f"{here} has no floor: add it to ALLOWED and to docs/design.md"
    allowed = ALLOWED[here] | {here, "types"}
    for module in imported(path):
        assert not module.startswith("experiments"), f"ico imports {module}"
        if module.split(".")[0] == "ico":
            assert room(module) in allowed, f"{here} may not import {module}"


@pytest.mark.parametrize("path", ICO, ids=ids(ICO))
def test_ground_floor_stands_on_jax_alone(path):
    allowed = THIRD_PARTY.get(room(name_of(path)))
    if allowed is None:
        return
    others = {module.split(".")[0] for module in imported(path)} - {"ico"}
    assert not others - allowed - sys.stdlib_module_names


def test_floors_have_no_circles():
    done = set()
    while left := ALLOWED.keys() - done:
        ready = {name for name in left if ALLOWED[name] <= done}
        assert ready, f"circle among {sorted(left)}"
        done |= ready


def top_level(tree):
    """Statements that run at import: functions are free to import late."""
    pending = list(tree.body)
    while pending:
        node = pending.pop()
        yield node
        is_type_checking = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        is_function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        if not is_type_checking and not is_function:
            pending += [child for child in ast.iter_child_nodes(node) if hasattr(child, "lineno")]


def test_modules_have_no_circles():
    graph = {
        name: set(imported(path, top_level)) & MODULES.keys() for name, path in MODULES.items()
    }
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(graph[name] - {name}):
            visit(other)
        done.add(path.pop())

    for name in graph:
        visit(name)


@pytest.mark.parametrize("path", ICO, ids=ids(ICO))
def test_implementation_files_are_private(path):
    private = path.name.startswith("_")
    assert private or str(path.relative_to(ROOT)) in PUBLIC_MODULES


EXPERIMENTS = sources("experiments", "colabs", "benchmarks")


@pytest.mark.parametrize("path", ICO + EXPERIMENTS, ids=ids(ICO + EXPERIMENTS))
def test_private_files_are_used_by_their_own_package_alone(path):
    package = name_of(path.parent / "__init__.py")
    for module in imported(path):
        if module.split(".")[0] not in ("ico", "experiments"):
            continue
        parts = module.split(".")
        for i, part in enumerate(parts):
            if part.startswith("_") and part != "__main__":
                owner = ".".join(parts[:i])
                assert f"{package}.".startswith(f"{owner}."), f"{module} is private to {owner}"


ALL = sources(*CODE)


@pytest.mark.parametrize("path", ALL, ids=ids(ALL))
def test_files_are_short_and_named_for_what_they_hold(path):
    assert len(path.read_text().splitlines()) <= 400
    assert path.name not in ("utils.py", "_utils.py", "helpers.py", "misc.py")


PAPERS = sorted((ROOT / "experiments").glob("*/paper.py"))


@pytest.mark.parametrize("path", PAPERS, ids=ids(PAPERS))
def test_main_of_an_experiment_is_short(path):
    assert len((path.parent / "__main__.py").read_text().splitlines()) < 20


SYSTEMS = [path for path in sources("experiments/systems") if path.name != "__init__.py"]


@pytest.mark.parametrize("path", SYSTEMS, ids=ids(SYSTEMS))
def test_a_small_system_is_small(path):
    assert len(path.read_text().splitlines()) <= 200
