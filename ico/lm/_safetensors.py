"""Safetensors files, whole or in shards, and the JSON files beside them."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from ico.lm._errors import WeightFileError
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
_LONGEST_HEADER = 100_000_000  # bytes


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
    places: dict[str, tuple[Path, str]] = {}
    for file in dict.fromkeys(files.values()):
        for tensor, shape in _header(file).items():
            name = _plain_name(tensor, optional_prefix)
            if name is None:
                continue
            if name in shapes:
                raise WeightFileError(f"{path}: the tensor {name!r} is there twice")
            shapes[name], places[name] = shape, (file, tensor)
    named = {name: _plain_name(name, optional_prefix) for name in files if name is not None}
    found = {None, *shapes}
    missing = [name for name, plain in named.items() if plain not in found]
    if missing:
        raise WeightFileError(f"{path} names tensors that no file holds: {missing[:3]}")

    def read(name: str) -> np.ndarray:
        from safetensors import SafetensorError, safe_open

        file, tensor = places[name]
        try:
            with safe_open(file, framework="numpy") as opened:
                return opened.get_tensor(tensor).astype(np.float32)
        except (SafetensorError, TypeError, ValueError) as error:
            raise WeightFileError(f"{file}: {tensor}: {error}") from None

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
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise WeightFileError(f"{index} has no weight_map")
    files = {}
    for tensor, file in names.items():
        if not isinstance(file, str) or Path(file).name != file or file in ("", ".", ".."):
            raise WeightFileError(f"{index} points outside its folder: {file!r}")
        if not (index.parent / file).is_file():
            raise WeightFileError(f"{index.parent} lacks the file {file!r}")
        files[tensor] = index.parent / file
    return files


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a safetensors file; the library checks the offsets."""
    from safetensors import SafetensorError, safe_open

    try:
        # The library maps the file and parses its header, so a huge header is refused first.
        with open(path, "rb") as file:
            size = path.stat().st_size
            length = struct.unpack("<Q", file.read(8))[0]
        if length > min(size - 8, _LONGEST_HEADER):
            raise WeightFileError(f"{path} is cut short, or its header is wrong")
        with safe_open(path, framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    except (SafetensorError, struct.error, ValueError, TypeError) as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError(f"{path} is damaged: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      WeightFileError: the file is missing, or holds no JSON or no object.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightFileError(f"there is no {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WeightFileError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise WeightFileError(f"{path} holds no JSON object")
    return found
