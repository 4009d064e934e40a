"""Trained parameters, found again by the hash of what made them."""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def artifact_directory(root: str | os.PathLike[str], name: str, spec: Any) -> Path:
    """The folder of one artefact, `root/<name>-<hash of spec>`; made, with `spec.json` inside.

    Args:
      root: the folder of all artefacts.
      name: a readable name, which is not hashed.
      spec: everything the parameters depend on, of dataclasses, dicts with string keys, lists,
        tuples, strings, bools, None and finite numbers. A dataclass counts with its class name, so
        that two tasks with the same fields differ.

    Raises:
      TypeError: the spec holds something else (named by its path in the spec).
      ValueError: a number is not finite, or `name` has a "/".
    """
    if not name or "/" in name:
        raise ValueError(f"artefact name must be non-empty and without '/', not {name!r}")
    text = json.dumps(_canonical(spec, "spec"), sort_keys=True, indent=1)
    directory = Path(root) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "spec.json"
    # Of an artefact that is not done it is written anew: its time is when the making began.
    done = (directory / "done.json").exists()
    if not done or not path.exists() or path.read_text() != text:
        _replace(path, text.encode())
    return directory


def save_artifact(directory: str | os.PathLike[str], params: PyTree) -> None:
    """Writes parameters, nested dicts of arrays, to `params.npz`, then `done.json`.

    Whoever is killed in between leaves no `done.json`, and so no artefact.

    Raises:
      ValueError: `params` is not nested non-empty dicts with string keys without "/".
      OSError: the folder cannot be written.
    """
    directory = Path(directory)
    flat = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }
    if jax.tree.structure(_nest(flat)) != jax.tree.structure(params):
        raise ValueError("params must be nested, non-empty dicts whose keys are strings without /")
    done = directory / "done.json"
    done.unlink(missing_ok=True)  # it would vouch for the parameters before these
    path = directory / "params.npz"
    temporary = directory / f".params.{os.getpid()}.npz"
    try:
        # numpy cannot name types such as bfloat16 in a file: bytes there, the names in done.json.
        data = {name: _as_bytes(leaf) for name, leaf in flat.items()}
        np.savez(temporary, allow_pickle=False, **data)
        digest = _sha256(temporary)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    leaves = {name: [str(leaf.dtype), list(leaf.shape)] for name, leaf in flat.items()}
    _replace(done, json.dumps({"sha256": digest, "leaves": leaves}, indent=1).encode())


def load_artifact(directory: str | os.PathLike[str]) -> PyTree | None:
    """Reads what `save_artifact` wrote, as nested dicts of jax arrays.

    Returns:
      The parameters; None if the artefact is not finished, or, with a warning, if it is damaged.
    """
    directory = Path(directory)
    if not (directory / "done.json").exists():
        return None
    try:
        done = json.loads((directory / "done.json").read_text())
        path = directory / "params.npz"
        if _sha256(path) != done["sha256"]:
            raise ValueError("its bytes have changed")
        with np.load(path, allow_pickle=False) as file:
            flat = {
                name: jnp.asarray(file[name].view(jnp.dtype(dtype)).reshape(shape))
                for name, (dtype, shape) in done["leaves"].items()
            }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"artefact {directory} is damaged and not used ({reason})", stacklevel=2)
        return None
    return _nest(flat)


def _canonical(value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return _canonical({"class": type(value).__name__, **fields}, where)
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{where}: keys must be strings, not {odd[0]!r}")
        return {key: _canonical(x, f"{where}.{key}") for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(x, f"{where}[{i}]") for i, x in enumerate(value)]
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"{where}: {value} is not finite")
    if value is None or type(value) in (str, bool, int, float):
        return value
    raise TypeError(
        f"{where}: {type(value).__name__} cannot be part of a spec; use numbers, strings, "
        "lists, dicts and dataclasses"
    )


def _nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, leaf in flat.items():
        *parents, last = name.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def _as_bytes(leaf: np.ndarray) -> np.ndarray:
    return np.frombuffer(np.ascontiguousarray(leaf).tobytes(), np.uint8)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def _replace(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        _sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
