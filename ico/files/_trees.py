"""Nested dicts of arrays in one .npz."""

import hashlib
import io
import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ico.files._read import FileError, parse_json, read_bytes
from ico.files._write import write_atomically

PyTree = Any

# The entry of an .npz that names the types numpy cannot store (bfloat16 and its kin).
_TYPES = "__types__"
_DEEPEST = 100


def flatten(tree: PyTree) -> dict[str, Any]:
    """Nested dicts as one dict whose keys are paths, "block_0/attention/query".

    Raises:
      ValueError: `tree` is not nested non-empty dicts, at most 100 deep, with non-empty string keys
        without "/".
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
        if path.count("/") + bool(path) >= _DEEPEST:
            raise ValueError(f"{path[:80]}: dicts are nested more than {_DEEPEST} deep")
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
    """The nested dicts that `flatten` was given.

    Raises:
      ValueError: paths that `flatten` does not make: "a" beside "a/b", "a//b", over 100 names.
    """
    tree: dict[str, Any] = {}
    for path, leaf in flat.items():
        *parents, last = path.split("/")
        if not all((*parents, last)) or len(parents) >= _DEEPEST:
            raise ValueError(f"{path[:80]!r} is no path of nested dicts")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ValueError(f"{path[:80]!r} lies below an array")
        if last in node:
            raise ValueError(f"{path[:80]!r} is both an array and a dict")
        node[last] = leaf
    return tree


def save_tree(path: str | os.PathLike, tree: PyTree) -> str:
    """Writes nested dicts of arrays to an .npz in one step; returns its SHA-256.

    Every leaf is an entry that `numpy.load` reads under its path; types that numpy has no name for
    (bfloat16) are kept as bytes and restored by `load_tree`. What is written is read back and
    compared.

    Raises:
      ValueError: not nested non-empty dicts with string keys without "/", or a leaf that an .npz
        cannot hold as it is (objects, records). Nothing is written.
      OSError: the file cannot be written, or holds other bytes than were written.
    """
    arrays = {name: np.asarray(leaf) for name, leaf in flatten(tree).items()}
    packed = pack_arrays(arrays)
    found = unpack_arrays(packed)
    if list(found) != list(arrays) or not all(map(_same, found.values(), arrays.values())):
        raise ValueError(f"{path}: an .npz cannot hold these arrays as they are")
    write_atomically(path, packed)
    digest = hashlib.sha256(packed).hexdigest()
    if hashlib.sha256(read_bytes(path)).hexdigest() != digest:
        raise OSError(f"{path} does not hold what was written to it; is the disk failing?")
    return digest


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether two arrays have the same type, shape and bytes."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and a.tobytes() == b.tobytes()


def load_tree(path: str | os.PathLike, sha256: str | None = None) -> dict[str, Any]:
    """Reads what `save_tree` wrote, as nested dicts of NumPy arrays.

    Args:
      path: of the .npz.
      sha256: what `save_tree` returned; None does not check.

    Raises:
      FileNotFoundError: there is no such file.
      FileError: it cannot be read, its bytes have changed, or they are no .npz of nested dicts.
    """
    packed = read_bytes(path)
    if sha256 is not None and hashlib.sha256(packed).hexdigest() != sha256:
        raise FileError(f"{path} is damaged: its bytes have changed")
    try:
        return unflatten(unpack_arrays(packed, path))
    except FileError:
        raise
    except ValueError as error:
        raise FileError(f"{path} is damaged: {error}") from None


def pack_arrays(arrays: Mapping[str, Any]) -> bytes:
    """The bytes of an .npz: the same for the same arrays.

    Raises:
      ValueError: an array of objects or records, or a name that no entry can have.
    """
    buffer = io.BytesIO()
    types: dict[str, list] = {}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            if name == _TYPES or "\0" in name:
                raise ValueError(f"no array can be named {name!r}")
            array = np.asarray(value)
            if array.dtype.hasobject or array.dtype.names is not None:
                kind = "objects" if array.dtype.hasobject else "records"
                raise ValueError(f"array {name!r} holds {kind}; give numbers or strings")
            if array.dtype.kind == "V":
                types[name] = [str(array.dtype), list(array.shape)]
                array = np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
            _write_array(archive, name, array)
        if types:
            content = np.frombuffer(json.dumps(types).encode(), np.uint8)
            _write_array(archive, _TYPES, content)
    return buffer.getvalue()


def unpack_arrays(packed: bytes, name: str | os.PathLike = "the .npz") -> dict[str, np.ndarray]:
    """The arrays that `pack_arrays` was given, or that `numpy.savez` wrote.

    Args:
      packed: the bytes.
      name: what the message of an error names.

    Raises:
      FileError: no .npz of numbers and strings, or a compressed one, whose size nothing bounds.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(packed)) as archive:
            entries = archive.infolist()
            if sum(entry.file_size for entry in entries) > len(packed):
                raise ValueError("its entries are compressed or overlap; write it by numpy.savez")
            stored = {}
            for entry in entries:
                key = entry.filename.removesuffix(".npy")
                if key in stored:
                    raise ValueError(f"two arrays are named {key[:80]!r}")
                stored[key] = _read_array(archive.read(entry))
        if _TYPES in stored:
            _restore_types(stored, parse_json(stored.pop(_TYPES).tobytes(), "the list of types"))
    except Exception as error:  # zipfile and numpy raise errors of many types for damaged bytes
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise FileError(f"{name} is no .npz of arrays: {reason}") from error
    return stored


def _write_array(archive: zipfile.ZipFile, name: str, array: np.ndarray) -> None:
    """Adds an entry as `numpy.savez` would, with a fixed date: equal arrays give equal bytes."""
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        np.lib.format.write_array(file, array, allow_pickle=False)


def _read_array(content: bytes) -> np.ndarray:
    """The array in a .npy whose header claims exactly the bytes that follow it.

    `numpy.load` would first allocate what the header claims.
    """
    file = io.BytesIO(content)
    major, _ = np.lib.format.read_magic(file)
    read_header = getattr(np.lib.format, f"read_array_header_{major}_0")
    shape, fortran_order, dtype = read_header(file)
    if dtype.hasobject or dtype.names is not None or dtype.itemsize == 0:
        raise ValueError("an array of something else than numbers and strings")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(content) - file.tell():
        raise ValueError("the header of an array does not fit its size")
    if not math.prod(shape):
        return np.empty(shape, dtype)
    array = np.frombuffer(content, dtype, offset=file.tell()).copy()  # a buffer is read-only
    return array.reshape(shape, order="F" if fortran_order else "C")


def _restore_types(stored: dict[str, np.ndarray], types: dict[str, Any]) -> None:
    """Gives arrays of bytes the types that numpy does not store."""
    import ml_dtypes

    for name, (kind, shape) in types.items():
        dtype = getattr(ml_dtypes, str(kind), None)
        if not (isinstance(dtype, type) and issubclass(dtype, np.generic)):
            raise ValueError(f"unknown type {kind!r}")
        stored[name] = stored[name].view(dtype).reshape([int(size) for size in shape])
