"""GGUF files: the header, checked against the file's size, and tensors as float32.

The gguf package is used for dequantisation only: its reader is slow for large vocabularies and
trusts the file.
"""

import mmap
import struct
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ico.lm._errors import WeightFileError

# Types of values in the header -> codes of Python's struct.
_SCALARS = dict(zip((*range(8), 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_MAX_DEPTH = 4  # nested arrays


class Tensor(NamedTuple):
    """Where a tensor is in the file.

    Fields:
      shape: outermost axis first, so [out, in] for matrices (GGUF writes the innermost first).
      kind: a `gguf.GGMLQuantizationType`.
      start, num_bytes: its place in the file.
    """

    shape: tuple[int, ...]
    kind: int
    start: int
    num_bytes: int


class GgufFile(NamedTuple):
    """A checked header: metadata, tensors by name, and the file's bytes."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]
    data: np.ndarray


def read_gguf(path: Path) -> GgufFile:
    """Reads and checks the header. No tensor is read yet.

    Raises:
      WeightFileError: not a GGUF file, cut short, or a header that points outside the file.
      OSError: the file cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:
            raise WeightFileError(f"{path} is empty") from None
    try:
        return _Header(mapped, path).read()
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
    except (struct.error, OverflowError, MemoryError, RecursionError) as error:
        raise WeightFileError(f"{path} is damaged: {error}") from None


class _Header:
    """Reads a header value by value and never past the end of the file."""

    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.at = data, path, 0

    def take(self, count: int) -> bytes:
        if count < 0 or self.at + count > len(self.data):
            raise WeightFileError("cut short, or a length in its header is wrong")
        self.at += count
        return self.data[self.at - count : self.at]

    def number(self, code: str):
        return struct.unpack("<" + code, self.take(struct.calcsize("=" + code)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8", errors="surrogateescape")

    def value(self, kind: int, depth: int = 0):
        if kind in _SCALARS:
            return self.number(_SCALARS[kind])
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY and depth < _MAX_DEPTH:
            inner, count = self.number("I"), self.number("Q")
            if inner in _SCALARS:
                code = _SCALARS[inner]
                raw = self.take(count * struct.calcsize("=" + code))
                return np.frombuffer(raw, np.dtype(code).newbyteorder("<")).tolist()
            # A string takes at least eight bytes, an array twelve.
            if count > (len(self.data) - self.at) // 8:
                raise WeightFileError("an array in its header is longer than the file")
            return [self.value(inner, depth + 1) for _ in range(count)]
        raise WeightFileError(f"unknown type {kind} in its header")

    def read(self) -> GgufFile:
        if self.take(4) != b"GGUF":
            raise WeightFileError("not a GGUF file")
        version = self.number("I")
        if version not in (2, 3):
            if version in (2 << 24, 3 << 24):
                raise WeightFileError("big-endian GGUF is not supported")
            raise WeightFileError(f"GGUF version {version} is not supported (2 or 3)")
        num_tensors, num_keys = self.number("Q"), self.number("Q")
        if max(num_tensors, num_keys) > len(self.data) // 12:
            raise WeightFileError("a count in its header is larger than the file")
        metadata = {}
        for _ in range(num_keys):
            key = self.string()
            if key in metadata:
                raise WeightFileError(f"key {key!r} is there twice")
            metadata[key] = self.value(self.number("I"))
        entries = [self._entry() for _ in range(num_tensors)]
        alignment = metadata.get("general.alignment", 32)
        if not (isinstance(alignment, int) and 0 < alignment <= 2**16):
            raise WeightFileError(f"alignment {alignment!r} makes no sense")
        start = -(-self.at // alignment) * alignment
        tensors = {}
        for name, shape, kind, offset in entries:
            if name in tensors:
                raise WeightFileError(f"tensor {name!r} is there twice")
            num_bytes = _num_bytes(name, shape, kind)
            if start + offset + num_bytes > len(self.data):
                raise WeightFileError(f"tensor {name!r} lies outside the file")
            tensors[name] = Tensor(shape, kind, start + offset, num_bytes)
        _check_apart(tensors)
        return GgufFile(self.path, metadata, tensors, np.frombuffer(self.data, np.uint8))

    def _entry(self):
        name, num_dims = self.string(), self.number("I")
        if num_dims > 4:
            raise WeightFileError(f"tensor {name!r} has {num_dims} dimensions")
        shape = tuple(reversed([self.number("Q") for _ in range(num_dims)]))
        return name, shape, self.number("I"), self.number("Q")


def _check_apart(tensors: dict[str, Tensor]) -> None:
    """Refuses tensors that share bytes, with which a small file could become a large model."""
    end, before = 0, ""
    for name, tensor in sorted(tensors.items(), key=lambda item: item[1].start):
        if tensor.num_bytes and tensor.start < end:
            raise WeightFileError(f"tensors {before!r} and {name!r} overlap")
        end, before = tensor.start + tensor.num_bytes, name


def _num_bytes(name: str, shape, kind: int) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        block, size = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise WeightFileError(f"tensor {name!r} has the unknown type {kind}") from None
    count = 1
    for dim in shape:
        count *= dim
    if shape and shape[-1] % block:
        raise WeightFileError(
            f"tensor {name!r}: rows of {shape[-1]} are no multiple of blocks of {block}"
        )
    return count // block * size


def dequantise(file: GgufFile, name: str) -> np.ndarray:
    """A tensor of the file as float32 [*shape].

    Raises:
      WeightFileError: the file has no such tensor, or the type cannot be dequantised.
    """
    import gguf

    if name not in file.tensors:
        raise WeightFileError(f"{file.path} lacks the tensor {name!r}")
    tensor = file.tensors[name]
    kind = gguf.GGMLQuantizationType(tensor.kind)
    raw = file.data[tensor.start : tensor.start + tensor.num_bytes]
    plain = {
        gguf.GGMLQuantizationType.F32: np.float32,
        gguf.GGMLQuantizationType.F16: np.float16,
        gguf.GGMLQuantizationType.F64: np.float64,
    }
    if kind in plain:
        return raw.view(plain[kind]).reshape(tensor.shape).astype(np.float32)
    rows = raw.reshape(*tensor.shape[:-1], -1)
    try:
        return np.asarray(gguf.quants.dequantize(rows, kind), np.float32).reshape(tensor.shape)
    except (NotImplementedError, KeyError):
        raise WeightFileError(f"{file.path}: {kind.name} cannot be dequantised") from None
