"""Published tensors <-> the decoder's parameters.

What a family's files look like is said by its `ico.lm.families.Family`; how a matrix is laid out
follows from the shape of the parameter. Files hold matrices as [out, in] unless the family says
otherwise.

Dimension key: L layers, D width, H heads, A head width.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ico.lm._config import DecoderConfig
from ico.lm._decoder import Params, param_shapes
from ico.lm._errors import WeightFileError
from ico.lm._gguf import GgufFile, dequantise
from ico.lm.families import family_of

# Matrices of a layer, with the number of leading axes of the kernel that are its input.
_NUM_INPUT_AXES = {"query": 1, "key": 1, "value": 1, "output": 2, "gate": 1, "up": 1, "down": 1}


class Source(NamedTuple):
    """The tensors of a file: their shapes, known without reading them, and a reader.

    It returns float64 for a tensor of that type and float32 for every other.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


def gguf_source(file: GgufFile) -> Source:
    """The tensors of a GGUF file, without `rope_freqs`, which holds no weights."""
    shapes = {
        name: tensor.shape for name, tensor in file.tensors.items() if name != "rope_freqs.weight"
    }
    return Source(file.path, shapes, lambda name: dequantise(file, name))


def drop_tied_head(source: Source, config: DecoderConfig) -> Source:
    """Leaves out the head if it is tied: some files hold a copy of the embedding in its place."""
    if not config.tied:
        return source
    head = family_of(config).tensor_name("head", "kernel", None, gguf=False)
    return source._replace(
        shapes={name: shape for name, shape in source.shapes.items() if name != head}
    )


def read_params(
    source: Source, config: DecoderConfig, *, gguf: bool, dtype: type = np.float32
) -> Params:
    """Parameters from the tensors of a file, as NumPy arrays.

    Every name and shape is checked before the first tensor is read.

    Args:
      source: the tensors.
      config: of the decoder.
      gguf: whether the file is GGUF, else safetensors.
      dtype: of the arrays: float32, or float64, which narrower tensors are cast to.

    Raises:
      WeightFileError: a tensor is missing, has another shape, or is not known.
    """
    layout = _Layout(config, gguf)
    shapes = param_shapes(config)
    _check_tensors(source, layout, shapes)

    def load(path, shape):
        name, part, in_layers = _parameter(path)
        if not in_layers:
            value = source.read(layout.tensor(name, part)).astype(dtype, copy=False)
            return layout.from_published(name, part, value)
        out = np.empty(shape, dtype)
        for layer in range(config.num_layers):
            value = source.read(layout.tensor(name, part, layer)).astype(dtype, copy=False)
            out[layer] = layout.from_published(name, part, value)
        return out

    return jax.tree.map_with_path(load, shapes, is_leaf=_is_shape)


def check_shapes(params: Params, config: DecoderConfig) -> None:
    """Checks that the parameters are those of the configuration.

    Raises:
      ValueError: one is missing, unknown, or has another shape.
    """
    wanted = dict(_by_path(param_shapes(config)))
    found = {path: np.shape(leaf) for path, leaf in _by_path(params)}
    for path in [*wanted, *found]:
        if wanted.get(path) != found.get(path):
            raise ValueError(
                f"parameter {path} must be {wanted.get(path, 'absent')}, "
                f"but is {found.get(path, 'absent')}"
            )


def _by_path(tree: Params) -> list[tuple[str, Any]]:
    leaves = jax.tree.leaves_with_path(tree, is_leaf=_is_shape)
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def write_tensors(params: Params, config: DecoderConfig) -> dict[str, np.ndarray]:
    """Tensors under the names and in the layout of transformers' safetensors files."""
    family, layout = family_of(config), _Layout(config, gguf=False)
    tensors: dict[str, np.ndarray] = {}

    def put(name, part, value, layer=None):
        tensor = layout.tensor(name, part, layer)
        if name != "head":
            tensor = family.optional_prefix + tensor
        value = layout.to_published(name, part, np.asarray(value))
        if tensor in tensors:  # the next of the parameters that share this tensor
            value = np.concatenate([tensors[tensor], value], axis=layout.out_axis)
        tensors[tensor] = np.ascontiguousarray(value)

    for name, value in params.items():
        if name == "layers":
            continue
        parts = value if isinstance(value, dict) else {"kernel": value}
        for part, array in parts.items():
            put(name, part, array)
    for layer in range(config.num_layers):
        for name in family.layer_names:
            for part, array in params["layers"].get(name, {}).items():
                put(name, part, array[layer], layer)
    return tensors


def different_parameter(params: Params, found: Params, config: DecoderConfig) -> str:
    """The path of a parameter that has other values in another tree; "" for none.

    Args:
      params: of any floating type.
      found: the same tree, read from a file in a type at least as wide.
      config: of the decoder. A family that writes norms less a number (Gemma) loses the last bit.
    """
    for (path, ours), (_, theirs) in zip(_by_path(params), _by_path(found), strict=True):
        ours, slack = np.asarray(ours), 0.0
        if path.endswith("scale") and family_of(config).norm_offset:
            slack = float(jnp.finfo(ours.dtype).eps)
        wide = ours.astype(theirs.dtype)
        same = np.array_equal(wide, theirs, equal_nan=True) or (
            slack > 0 and np.allclose(wide, theirs, rtol=slack, atol=slack, equal_nan=True)
        )
        if not same:
            return path
    return ""


def _check_tensors(source: Source, layout: "_Layout", shapes: Params) -> None:
    known = set()
    for path, _ in jax.tree.leaves_with_path(shapes, is_leaf=_is_shape):
        name, part, in_layers = _parameter(path)
        wanted = layout.published_shape(name, part)
        for layer in range(layout.config.num_layers) if in_layers else (None,):
            tensor = layout.tensor(name, part, layer)
            known.add(tensor)
            found = source.shapes.get(tensor)
            if found is None:
                raise WeightFileError(f"{source.path} lacks the tensor {tensor!r}")
            if found != wanted:
                raise WeightFileError(
                    f"{source.path}: tensor {tensor!r} is {list(found)}, not {list(wanted)}"
                )
    for tensor in source.shapes:
        if tensor not in known and not tensor.endswith(layout.family.ignored):
            raise WeightFileError(f"{source.path}: the tensor {tensor!r} is not known")


def _is_shape(node) -> bool:
    return isinstance(node, tuple)


def _parameter(path) -> tuple[str, str, bool]:
    """Name and part of a leaf in the tree of parameters, and whether it belongs to the layers."""
    keys = [entry.key for entry in path]
    if keys[0] == "layers":
        return keys[1], keys[2], True
    return keys[0], keys[1] if len(keys) > 1 else "kernel", False


class _Layout:
    """How one kind of file of a family lays out the decoder's parameters."""

    def __init__(self, config: DecoderConfig, gguf: bool):
        self.config, self.gguf, self.family = config, gguf, family_of(config)
        self.kernels_in_out = self.family.kernels_in_out and not gguf
        self.out_axis = -1 if self.kernels_in_out else 0
        self._shapes = param_shapes(config)

    def tensor(self, name: str, part: str, layer: int | None = None) -> str:
        """The name of the parameter's tensor."""
        return self.family.tensor_name(name, part, layer, gguf=self.gguf)

    def published_shape(self, name: str, part: str) -> tuple[int, ...]:
        """The shape of the tensor that holds (one layer of) a parameter."""
        shape = self._shape(name, part)
        if name not in _NUM_INPUT_AXES:
            return shape
        rows = sum(self._num_rows(sharing) for sharing in self._sharing(name))
        if part == "bias":
            return (rows,)
        columns = math.prod(shape[: _NUM_INPUT_AXES[name]])
        return (columns, rows) if self.kernels_in_out else (rows, columns)

    def from_published(self, name: str, part: str, value: np.ndarray) -> np.ndarray:
        """The parameter of one layer, or outside the layers, from its tensor."""
        if part == "scale" and self.family.norm_offset and not self.gguf:
            return value + self.family.norm_offset
        if name not in _NUM_INPUT_AXES:
            return value
        if part == "kernel" and self.kernels_in_out:
            value = value.T
        sharing = self._sharing(name)
        first = sum(self._num_rows(other) for other in sharing[: sharing.index(name)])
        value = value[first : first + self._num_rows(name)]
        if self.gguf and self.family.gguf_interleaves_rotary_pairs and name in ("query", "key"):
            value = self._pairs_half_a_head_apart(value)
        # [out, in] -> [in, out], and both are split into their axes.
        return (value.T if part == "kernel" else value).reshape(self._shape(name, part))

    def to_published(self, name: str, part: str, value: np.ndarray) -> np.ndarray:
        """The inverse of `from_published` for safetensors, except that nothing is joined."""
        if part == "scale" and self.family.norm_offset:
            return value - self.family.norm_offset
        if name not in _NUM_INPUT_AXES:
            return value
        if part == "bias":
            return value.reshape(-1)
        value = value.reshape(math.prod(value.shape[: _NUM_INPUT_AXES[name]]), -1)
        return value if self.kernels_in_out else value.T

    def _shape(self, name: str, part: str) -> tuple[int, ...]:
        """The shape of a parameter, of one layer."""
        if name in self.family.layer_names:
            return self._shapes["layers"][name][part][1:]
        shape = self._shapes[name]
        return shape[part] if isinstance(shape, dict) else shape

    def _num_rows(self, name: str) -> int:
        return math.prod(self._shape(name, "kernel")[_NUM_INPUT_AXES[name] :])

    def _sharing(self, name: str) -> list[str]:
        """The parameters that stand in one tensor with this one, itself included, in order."""
        names, which = self.family.layer_names, 0 if self.gguf else 1
        return [other for other in names if names[other][which] == names[name][which]]

    def _pairs_half_a_head_apart(self, value: np.ndarray) -> np.ndarray:
        """Reorders the rows [H * A, ...] of a query or key whose rotary pairs are neighbours."""
        half = self.config.head_dim // 2
        pairs = value.reshape(-1, half, 2, *value.shape[1:])
        return pairs.swapaxes(1, 2).reshape(value.shape)
