"""Files that are whole or absent: one-step replacement, and trees of arrays in one .npz.

Also which commit the code in a folder is at, for whatever is kept on disk carries it.
"""

import hashlib
import io
import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

PyTree = Any

# The entry of an .npz that names the types numpy cannot store (bfloat16 and its kin).
_TYPES = "__types__"


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Replaces a file in one step, making its folder; leaves nothing behind on an error.

    A process killed at any moment leaves the old file or the new one. Both the bytes and the
    replacement are on disk when this returns.

    Raises:
      OSError: no space, no permission.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)  # the only way to read it; mkstemp's 0600 is not what readers want
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def flatten(tree: PyTree) -> dict[str, Any]:
    """Nested dicts as one dict whose keys are paths, "block_0/attention/query".

    Raises:
      ValueError: `tree` is not nested non-empty dicts with non-empty string keys without "/".
    """
    flat: dict[str, Any] = {}

    def visit(node: Any, path: str) -> None:
        if isinstance(node, list | tuple | set) or node is None:
            raise ValueError(f"{path}: want nested dicts of arrays, not a {type(node).__name__}")
        if not isinstance(node, Mapping):
            flat[path] = node
            return
        if not node:
            raise ValueError(f"{path or 'the tree'}: an empty dict among nested dicts of arrays")
        for key, value in node.items():
            if not isinstance(key, str) or not key or "/" in key:
                raise ValueError(
                    f"{path or 'the tree'}: keys of nested dicts must be strings without /: {key!r}"
                )
            visit(value, f"{path}/{key}" if path else key)

    if not isinstance(tree, Mapping):
        raise ValueError(f"want nested dicts of arrays, not {type(tree).__name__}")
    visit(tree, "")
    return flat


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """The nested dicts that `flatten` was given."""
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


def save_tree(path: str | os.PathLike, tree: PyTree) -> str:
    """Writes nested dicts of arrays to an .npz in one step; returns its SHA-256.

    Every leaf is an entry that `numpy.load` reads under its path; types that numpy has no name for
    (bfloat16) are kept as bytes and restored by `load_tree`.

    Raises:
      ValueError: not nested non-empty dicts with string keys without "/", or a leaf of objects.
      OSError: the file cannot be written.
    """
    packed = pack_arrays(flatten(tree))
    write_atomically(path, packed)
    return hashlib.sha256(packed).hexdigest()


def load_tree(path: str | os.PathLike, sha256: str | None = None) -> dict[str, Any]:
    """Reads what `save_tree` wrote, as nested dicts of NumPy arrays.

    Args:
      path: of the .npz.
      sha256: what `save_tree` returned; None does not check.

    Raises:
      ValueError: the bytes have changed, or are no .npz.
      OSError: the file cannot be read.
    """
    packed = Path(path).read_bytes()
    if sha256 is not None and hashlib.sha256(packed).hexdigest() != sha256:
        raise ValueError("its bytes have changed")
    return unflatten(unpack_arrays(packed))


def pack_arrays(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of an .npz: the same for the same arrays.

    Raises:
      ValueError: an array of objects, or a name that is taken.
    """
    stored: dict[str, Any] = {}
    types: dict[str, list] = {}
    for name, value in arrays.items():
        if name in ("file", "allow_pickle", _TYPES):
            raise ValueError(f"array name {name!r} is taken")
        array = np.asarray(value)
        if array.dtype.kind == "O":
            raise ValueError(f"array {name!r} holds objects; give numbers or strings")
        if array.dtype.kind == "V":
            types[name] = [str(array.dtype), list(array.shape)]
            array = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
        stored[name] = array
    if types:
        stored[_TYPES] = np.frombuffer(json.dumps(types).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **stored)
    return buffer.getvalue()


def unpack_arrays(packed: bytes) -> dict[str, np.ndarray]:
    """The arrays that `pack_arrays` was given.

    Raises:
      ValueError: not an .npz.
    """
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            stored = {name: file[name] for name in file.files}
    except Exception as error:  # zipfile raises errors of many types for what is no archive
        raise ValueError(f"not an .npz of arrays ({error})") from error
    types = json.loads(stored.pop(_TYPES).tobytes()) if _TYPES in stored else {}
    if types:
        import ml_dtypes  # numpy knows these types by name once it is imported

        for name, (kind, shape) in types.items():
            dtype = np.dtype(getattr(ml_dtypes, kind))
            stored[name] = np.frombuffer(stored[name].tobytes(), dtype).reshape(shape)
    return stored


def commit_of(folder: str | os.PathLike) -> str:
    """Short commit of the code in a folder, "-dirty" if a Python file differs, or "unknown"."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if "site-packages" in Path(folder).parts:
        return "unknown"  # installed: a repository further up is not the code's
    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", ":/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
