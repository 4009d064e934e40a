"""Safetensors files, whole or in shards."""

import math
import os
import struct
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from ico.files import check_fields, parse_json, read_json
from ico.lm._errors import WeightFileError, as_weight_file_errors, one_line
from ico.lm._weights import Source

# Tensors of a multimodal model that are not of its text half, and prefixes of those that are.
_NOT_TEXT = (
    "vision_tower.",
    "multi_modal_projector.",
    "model.vision_tower.",
    "model.multi_modal_projector.",
)
_TEXT_PREFIXES = {
    "language_model.model.": "model.",
    "model.language_model.": "model.",
    "language_model.lm_head": "lm_head",
}
_LONGEST_HEADER = 2**24  # bytes, which are about 150,000 tensors
# The types that weights can have. Integers would be codes of a quantised model.
_TYPES = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
}


class _Entry(NamedTuple):
    """Where a tensor is in its file: its type's name, its shape and its bytes."""

    kind: str
    shape: tuple[int, ...]
    start: int
    num_bytes: int


def safetensors_source(path: Path, optional_prefix: str = "") -> Source:
    """The tensors of one safetensors file, or of all files that an index.json names.

    Args:
      path: model.safetensors or model.safetensors.index.json.
      optional_prefix: taken off the names that begin with it. The prefixes of a multimodal model's
        text half are taken off, too, and its other tensors are left out.

    Raises:
      WeightFileError: a file is damaged or missing, or holds a tensor that another holds.
    """
    files = _shards(path) if path.suffix == ".json" else {None: path}
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[Path, _Entry]] = {}
    for file in dict.fromkeys(files.values()):
        for tensor, entry in _header(file).items():
            name = _plain_name(tensor, optional_prefix)
            if name is None:
                continue
            if name in shapes:
                raise WeightFileError(f"{path}: the tensor {name!r} is there twice")
            shapes[name], places[name] = entry.shape, (file, entry)
    named = {name: _plain_name(name, optional_prefix) for name in files if name is not None}
    found = {None, *shapes}
    missing = [name for name, plain in named.items() if plain not in found]
    if missing:
        raise WeightFileError(f"{path} names tensors that no file holds: {missing[:3]}")

    def read(name: str) -> np.ndarray:
        file, entry = places[name]
        if entry.kind not in _TYPES:
            raise WeightFileError(
                f"{file}: tensor {name!r} is of type {entry.kind}, which no weights are read from "
                f"(only {', '.join(_TYPES)})"
            )
        dtype, count = _TYPES[entry.kind], math.prod(entry.shape)
        if count * dtype.itemsize != entry.num_bytes:
            raise WeightFileError(f"{file}: tensor {name!r} has not as many bytes as its shape")
        found = np.fromfile(file, dtype, count, offset=entry.start)
        if len(found) != count:
            raise WeightFileError(f"{file} is cut short")
        found = found.reshape(entry.shape)
        return found if entry.kind == "F64" else found.astype(np.float32, copy=False)

    return Source(path, shapes, read)


def _plain_name(name: str, optional_prefix: str) -> str | None:
    """A tensor's name without prefixes; None for what is not of the text half."""
    if name.startswith(_NOT_TEXT):
        return None
    for prefix, instead in _TEXT_PREFIXES.items():
        if name.startswith(prefix):
            return instead + name.removeprefix(prefix)
    return name.removeprefix(optional_prefix)


def _shards(index: Path) -> dict[str | None, Path]:
    """Tensor -> file of an index.json; files outside its folder are refused."""
    with as_weight_file_errors():
        names = check_fields(read_json(index), index, {"weight_map": dict})["weight_map"]
    if not names:
        raise WeightFileError(f"{index}: its weight_map is empty")
    files = {}
    for tensor, file in names.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise WeightFileError(f"{index} points outside its folder: {file!r}")
        if not os.path.isfile(index.parent / file):  # also False for what no file can be named
            raise WeightFileError(f"{index.parent} lacks the file {file[:100]!r}")
        files[tensor] = index.parent / file
    return files


def _header(path: Path) -> dict[str, _Entry]:
    """The tensors of a safetensors file. The library checks that they fill the file exactly."""
    from safetensors import SafetensorError, safe_open

    try:
        # The library maps the file and parses its header, so a huge header is refused first.
        with open(path, "rb") as file:
            size = path.stat().st_size
            length = struct.unpack("<Q", file.read(8))[0]
            if length > min(size - 8, _LONGEST_HEADER):
                raise WeightFileError(f"{path} is cut short, or its header is wrong")
            header = file.read(length)
        with safe_open(path, framework="numpy"):
            pass
    except (SafetensorError, struct.error, OSError) as error:
        raise WeightFileError(f"{path} is damaged: {one_line(error)}") from None
    with as_weight_file_errors():
        described = parse_json(header, path)
        described.pop("__metadata__", None)
        return {name: _entry(path, value, 8 + length, size) for name, value in described.items()}


def _entry(path: Path, described, data: int, size: int) -> _Entry:
    """An entry of a header; `data` is where the tensors begin, `size` is the file's."""
    fields = {"dtype": str, "shape": list, "data_offsets": list}
    found = check_fields(described, path, fields)
    shape, offsets = found["shape"], found["data_offsets"]
    if not all(isinstance(n, int) and n >= 0 for n in [*shape, *offsets]):
        raise WeightFileError(f"{path} is damaged: a size in its header makes no sense")
    if len(offsets) != 2 or not offsets[0] <= offsets[1] <= size - data:
        raise WeightFileError(f"{path} is damaged: a tensor lies outside the file")
    return _Entry(found["dtype"], tuple(shape), data + offsets[0], offsets[1] - offsets[0])
