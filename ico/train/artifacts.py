"""What took long to make, found again on disk by the hash of what it was made from."""

import dataclasses
import hashlib
import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ico.files import (
    check_fields,
    commit_of,
    flatten,
    load_tree,
    pack_arrays,
    read_json,
    read_text,
    save_tree,
    write_atomically,
)

PyTree = Any


def kept(
    root: str | os.PathLike[str],
    name: str,
    spec: Any,
    make: Callable[[Path], PyTree],
    *,
    commit: str | None = None,
) -> dict[str, Any]:
    """What `make` returns, made once for this name and specification and read back ever after.

    Args:
      root: the folder of all artefacts.
      name: a readable name.
      spec: everything the result depends on; see `artifact_directory`.
      make: gets the artefact's folder, where a training may put its checkpoints, and returns nested
        dicts of arrays.
      commit: of the code; None is that of `ico`.

    Returns:
      Nested dicts of NumPy arrays, the same whether made or found.

    Raises:
      TypeError, ValueError: as `artifact_directory` and `save_artifact`.
      OSError: the folder cannot be written.
    """
    directory = artifact_directory(root, name, spec)
    if (found := load_artifact(directory)) is not None:
        return found
    save_artifact(directory, make(directory), commit=commit)
    found = load_artifact(directory)
    if found is None:
        raise OSError(f"artefact {directory} could not be read back; is the disk failing?")
    return found


def artifact_directory(root: str | os.PathLike[str], name: str, spec: Any) -> Path:
    """The folder of one artefact, `root/<name>-<hash>`; made, with `spec.json` inside.

    Args:
      root: the folder of all artefacts.
      name: a readable name, which is not hashed.
      spec: everything the result depends on, of dataclasses, dicts with string keys, lists, tuples,
        strings, bools, None, finite numbers and arrays (which count with their bytes). A dataclass
        counts with its class name, so that two tasks with the same fields differ.

    Raises:
      TypeError: the spec holds something else (named by its path in the spec).
      ValueError: a number is not finite, or `name` has a "/".
    """
    if not name or "/" in name:
        raise ValueError(f"artefact name must be non-empty and without '/', not {name!r}")
    text = json.dumps(canonical(spec), sort_keys=True, indent=1)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    directory = Path(root) / f"{name}-{digest}"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "spec.json"
    # Rewritten while unfinished: its mtime marks the start, from which its cost is counted.
    if not (directory / "done.json").exists() or _text(path) != text:
        write_atomically(path, text)
    return directory


def _text(path: Path) -> str | None:
    try:
        return read_text(path)
    except (FileNotFoundError, ValueError):
        return None


def save_artifact(
    directory: str | os.PathLike[str], tree: PyTree, *, commit: str | None = None
) -> None:
    """Writes nested dicts of arrays to `arrays.npz`, then `done.json` with checksum and commit.

    What is written is read back and compared. A process killed in between leaves no `done.json`,
    and so no artefact.

    Raises:
      ValueError: `tree` is not nested non-empty dicts with string keys without "/", or a leaf is no
        array of numbers or strings. The artefact before stays.
      OSError: the folder cannot be written, or holds other bytes than were written.
    """
    directory = Path(directory)
    done = directory / "done.json"
    tree = jax.tree.map(np.asarray, tree)
    pack_arrays(flatten(tree))  # raises before the old artefact is touched
    done.unlink(missing_ok=True)  # it would vouch for the arrays before these
    digest = save_tree(directory / "arrays.npz", tree)
    commit = commit_of(Path(__file__).parent) if commit is None else commit
    write_atomically(done, json.dumps({"sha256": digest, "git": commit}, indent=1))


def load_artifact(directory: str | os.PathLike[str]) -> dict[str, Any] | None:
    """Reads what `save_artifact` wrote, as nested dicts of NumPy arrays.

    Returns:
      The tree; None if the artefact is not finished, or, with a warning, if it is damaged.
    """
    directory = Path(directory)
    if not (directory / "done.json").exists():
        return None
    try:
        path = directory / "done.json"
        done = check_fields(read_json(path), path, {"sha256": str})
        return load_tree(directory / "arrays.npz", done["sha256"])
    except (OSError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        warnings.warn(f"artefact {directory} is damaged and not used ({reason})", stacklevel=2)
        return None


def canonical(value: Any, where: str = "spec") -> Any:
    """A specification as plain JSON: equal for equal meaning, in every process.

    Raises:
      TypeError: it holds something that has no such form, named by its path from `where`.
      ValueError: a number is not finite.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
        return canonical({"class": type(value).__name__, **fields}, where)
    if isinstance(value, Mapping):
        if odd := [key for key in value if not isinstance(key, str)]:
            raise TypeError(f"{where}: keys must be strings, not {odd[0]!r}")
        return {key: canonical(x, f"{where}.{key}") for key, x in value.items()}
    if isinstance(value, list | tuple):
        return [canonical(x, f"{where}[{i}]") for i, x in enumerate(value)]
    if isinstance(value, float) and not np.isfinite(value):
        raise ValueError(f"{where}: {value} is not finite")
    if isinstance(value, int) and value.bit_length() > 900:
        raise ValueError(f"{where}: an integer of more digits than are read back")
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _described(value)
    raise TypeError(
        f"{where}: {type(value).__name__} cannot be part of a spec; use numbers, strings, "
        "lists, dicts, arrays and dataclasses"
    )


def _described(value: Any) -> dict[str, Any]:
    if isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
        value = jax.random.key_data(value)
    array = np.ascontiguousarray(value)
    digest = hashlib.sha256(array.tobytes()).hexdigest()[:16]
    return {"dtype": str(array.dtype), "shape": list(np.shape(value)), "sha256": digest}
