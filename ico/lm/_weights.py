"""Published weights <-> the decoder's parameters.

A family is a table of names; the layout of a parameter follows from its own name. Sources give
matrices as [out, in].

Dimension key: L layers, D width, H heads, A head width.
"""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from ico.lm._config import DecoderConfig
from ico.lm._decoder import Params, param_shapes
from ico.lm._errors import WeightFileError
from ico.lm._gguf import GgufFile, dequantise

# Parameter -> (name in GGUF, name in safetensors), each of one layer.
_LAYER_NAMES = {
    "llama": {
        "attention_norm": ("attn_norm", "input_layernorm"),
        "query": ("attn_q", "self_attn.q_proj"),
        "key": ("attn_k", "self_attn.k_proj"),
        "value": ("attn_v", "self_attn.v_proj"),
        "output": ("attn_output", "self_attn.o_proj"),
        "mlp_norm": ("ffn_norm", "post_attention_layernorm"),
        "gate": ("ffn_gate", "mlp.gate_proj"),
        "up": ("ffn_up", "mlp.up_proj"),
        "down": ("ffn_down", "mlp.down_proj"),
    },
    "gpt2": {
        "attention_norm": ("attn_norm", "ln_1"),
        "query": ("attn_qkv", "attn.c_attn"),  # query, key and value stand in one matrix
        "key": ("attn_qkv", "attn.c_attn"),
        "value": ("attn_qkv", "attn.c_attn"),
        "output": ("attn_output", "attn.c_proj"),
        "mlp_norm": ("ffn_norm", "ln_2"),
        "up": ("ffn_up", "mlp.c_fc"),
        "down": ("ffn_down", "mlp.c_proj"),
    },
}
_LAYER_NAMES["gemma3"] = {
    **_LAYER_NAMES["llama"],
    "query_norm": ("attn_q_norm", "self_attn.q_norm"),
    "key_norm": ("attn_k_norm", "self_attn.k_norm"),
    "attention_post_norm": ("post_attention_norm", "post_attention_layernorm"),
    "mlp_norm": ("ffn_norm", "pre_feedforward_layernorm"),
    "mlp_post_norm": ("post_ffw_norm", "post_feedforward_layernorm"),
}
_TOP_NAMES = {
    "llama": {
        "embedding": ("token_embd", "model.embed_tokens"),
        "final_norm": ("output_norm", "model.norm"),
        "head": ("output", "lm_head"),
    },
    "gpt2": {
        "embedding": ("token_embd", "wte"),
        "positions": ("position_embd", "wpe"),
        "final_norm": ("output_norm", "ln_f"),
        "head": ("output", "lm_head"),
    },
}
_TOP_NAMES["gemma3"] = _TOP_NAMES["llama"]
_LAYER_PREFIX = {"llama": "model.layers.", "gemma3": "model.layers.", "gpt2": "h."}

# Tensors that carry no weights: rotary tables, causal masks.
_IGNORED = (".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


class Source(NamedTuple):
    """Tensors by name: shapes without reading, and a reader. Matrices are [out, in]."""

    path: Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]


class _Names(NamedTuple):
    """Names of tensors in one kind of file."""

    config: DecoderConfig
    gguf: bool

    def __call__(self, name: str, part: str, layer: int | None = None) -> str:
        family = self.config.family
        if layer is None:
            stem = _TOP_NAMES[family][name][0 if self.gguf else 1]
        else:
            stem = _LAYER_NAMES[family][name][0 if self.gguf else 1]
            prefix = "blk." if self.gguf else _LAYER_PREFIX[family]
            stem = f"{prefix}{layer}.{stem}"
        return f"{stem}.{'bias' if part == 'bias' else 'weight'}"


def read_params(source: Source, config: DecoderConfig, *, gguf: bool) -> Params:
    """Parameters [float32 numpy] from the tensors of a file.

    Every name and shape is checked before the first tensor is read.

    Raises:
      WeightFileError: a tensor is missing, has another shape, or is not known.
    """
    names = _Names(config, gguf)
    shapes = param_shapes(config)
    known = set()
    leaves = jax.tree.leaves_with_path(shapes, is_leaf=lambda a: isinstance(a, tuple))
    for path, shape in leaves:
        keys = [entry.key for entry in path]
        in_layers = keys[0] == "layers"
        name, part = (keys[1], keys[2]) if in_layers else (keys[0], (*keys, "kernel")[1])
        for layer in range(config.num_layers) if in_layers else (None,):
            tensor = names(name, part, layer)
            known.add(tensor)
            wanted = _published_shape(config, name, part, shape[1:] if in_layers else shape)
            found = source.shapes.get(tensor)
            if found is None:
                raise WeightFileError(f"{source.path} lacks the tensor {tensor!r}")
            if found != wanted:
                raise WeightFileError(
                    f"{source.path}: tensor {tensor!r} is {list(found)}, not {list(wanted)}"
                )
    for tensor in source.shapes:
        if tensor not in known and not tensor.endswith(_IGNORED):
            raise WeightFileError(f"{source.path}: the tensor {tensor!r} is not known")

    def load(path, shape):
        keys = [entry.key for entry in path]
        if keys[0] != "layers":
            name, part = keys[0], (*keys, "kernel")[1]
            value = source.read(names(name, part)).astype(np.float32, copy=False)
            return _from_published(config, name, part, value, gguf)
        out = np.empty(shape, np.float32)
        for layer in range(config.num_layers):
            value = source.read(names(keys[1], keys[2], layer))
            out[layer] = _from_published(config, keys[1], keys[2], value, gguf)
        return out

    return jax.tree.map_with_path(load, shapes, is_leaf=lambda a: isinstance(a, tuple))


def write_tensors(params: Params, config: DecoderConfig) -> dict[str, np.ndarray]:
    """Tensors under the names and in the layout of transformers' safetensors files."""
    names = _Names(config, gguf=False)
    tensors: dict[str, np.ndarray] = {}
    prefix = "transformer." if config.family == "gpt2" else ""

    def put(name, part, value, layer=None):
        tensor = names(name, part, layer)
        if name != "head":
            tensor = prefix + tensor
        value = _to_published(config, name, part, np.asarray(value))
        if config.family == "gpt2" and name in ("query", "key", "value"):
            joined = tensors.setdefault(tensor, np.empty((*value.shape[:-1], 0), value.dtype))
            value = np.concatenate([joined, value], axis=-1)
        tensors[tensor] = np.ascontiguousarray(value)

    for name, value in params.items():
        if name == "layers":
            continue
        parts = value if isinstance(value, dict) else {"kernel": value}
        for part, array in parts.items():
            put(name, part, array)
    for layer in range(config.num_layers):
        for name in _LAYER_NAMES[config.family]:  # query before key before value
            for part, array in params["layers"].get(name, {}).items():
                put(name, part, array[layer], layer)
    return tensors


def _published_shape(config: DecoderConfig, name: str, part: str, shape):
    """The shape in the file of a parameter of the given shape."""
    if config.family == "gpt2" and name in ("query", "key", "value"):
        width = 3 * config.num_heads * config.head_dim
        return (width,) if part == "bias" else (width, config.dim)
    if part in ("scale", "bias") and name not in ("query", "key", "value"):
        return shape
    if name in ("query", "key", "value"):
        width = shape[-1] * shape[-2]
        return (width,) if part == "bias" else (width, config.dim)
    if name == "output":
        return (config.dim, shape[0] * shape[1])
    return shape[::-1] if name in ("gate", "up", "down") else shape


def _from_published(config: DecoderConfig, name: str, part: str, value, gguf: bool):
    """A tensor [out, in] of a file in the layout of the decoder."""
    if name in ("query", "key", "value"):
        heads = config.num_heads if name == "query" else config.num_kv_heads
        if config.family == "gpt2":
            value = np.split(value, 3)[("query", "key", "value").index(name)]
        value = value.reshape(heads, config.head_dim, *value.shape[1:])
        if gguf and config.family == "llama" and name != "value":
            # GGUF's Llama interleaves the pairs that rotary positions turn; here they are halves.
            value = value.reshape(heads, config.head_dim // 2, 2, *value.shape[2:])
            value = value.swapaxes(1, 2).reshape(heads, config.head_dim, *value.shape[3:])
        return value if part == "bias" else value.transpose(2, 0, 1)
    if name == "output" and part == "kernel":
        return value.T.reshape(config.num_heads, config.head_dim, config.dim)
    if name in ("gate", "up", "down") and part == "kernel":
        return value.T
    if part == "scale" and config.family == "gemma3" and not gguf:
        return value.astype(np.float32) + 1  # GGUF holds 1 + w already
    return value


def _to_published(config: DecoderConfig, name: str, part: str, value):
    """The inverse, in the layout of transformers (GPT-2's matrices are [in, out] there)."""
    if name in ("query", "key", "value", "output", "gate", "up", "down"):
        if part == "bias":
            return value.reshape(-1)
        if name == "output":
            value = value.reshape(-1, config.dim)
        elif name in ("query", "key", "value"):
            value = value.reshape(config.dim, -1)
        return value if config.family == "gpt2" else value.T
    if part == "scale" and config.family == "gemma3":
        return value - 1
    return value


def gguf_source(file: GgufFile) -> Source:
    """The tensors of a GGUF file. `rope_freqs`, which is no weight, is left out."""
    shapes = {
        name: tensor.shape for name, tensor in file.tensors.items() if name != "rope_freqs.weight"
    }
    return Source(file.path, shapes, lambda name: dequantise(file, name))


def safetensors_source(path: Path, family: str) -> Source:
    """The tensors of one safetensors file, or of all files that an index.json names.

    Names lose the prefixes that some exports carry (`transformer.`, `language_model.`), the vision
    half of a multimodal model is left out, and GPT-2's Conv1D matrices are turned to [out, in].
    """
    files = _shards(path) if path.suffix == ".json" else {None: path}
    shapes: dict[str, tuple[int, ...]] = {}
    places: dict[str, tuple[Path, str]] = {}
    for file in dict.fromkeys(files.values()):
        for tensor, shape in _header(file).items():
            name = _plain_name(tensor)
            if name is None:
                continue
            if name in shapes:
                raise WeightFileError(f"{path}: the tensor {name!r} stands twice")
            turned = _is_conv1d(family, name)
            shapes[name] = shape[::-1] if turned else shape
            places[name] = (file, tensor)
    missing = [name for name in files if name is not None and _plain_name(name) not in
               (*shapes, None)]  # fmt: skip
    if missing:
        raise WeightFileError(f"{path} names tensors that no file holds: {missing[:3]}")

    def read(name: str) -> np.ndarray:
        from safetensors import SafetensorError, safe_open

        file, tensor = places[name]
        try:
            with safe_open(file, framework="numpy") as opened:
                value = opened.get_tensor(tensor)
        except (SafetensorError, TypeError, ValueError) as error:
            raise WeightFileError(f"{file}: {tensor}: {error}") from None
        value = value.T if _is_conv1d(family, name) else value
        return value.astype(np.float32)

    return Source(path, shapes, read)


def drop_tied_head(source: Source, tied: bool) -> Source:
    """Without the copy of the embedding that some files with tied weights hold as a head."""
    if not tied:
        return source
    return source._replace(
        shapes={name: shape for name, shape in source.shapes.items() if name != "lm_head.weight"}
    )


def _is_conv1d(family: str, name: str) -> bool:
    return family == "gpt2" and name.endswith(
        ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
    )


def _plain_name(name: str) -> str | None:
    """A name without its export's prefix; None for the parts of a model that are not its text."""
    if name.startswith(("vision_tower.", "multi_modal_projector.", "model.vision_tower.",
                        "model.multi_modal_projector.")):  # fmt: skip
        return None
    for prefix, instead in (
        ("language_model.model.", "model."),
        ("model.language_model.", "model."),
        ("language_model.lm_head", "lm_head"),
        ("transformer.", ""),
    ):
        if name.startswith(prefix):
            return instead + name.removeprefix(prefix)
    return name


def _shards(index: Path) -> dict[str | None, Path]:
    """Tensor -> file of an index.json; only files beside it."""
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
        # The library maps the file and parses its header; a huge header is refused before.
        with open(path, "rb") as file:
            size = path.stat().st_size
            length = struct.unpack("<Q", file.read(8))[0]
        if length > min(size - 8, 100_000_000):
            raise WeightFileError(f"{path} is cut short, or its header is wrong")
        with safe_open(path, framework="numpy") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}
    except (SafetensorError, struct.error, ValueError, TypeError) as error:
        if isinstance(error, WeightFileError):
            raise
        raise WeightFileError(f"{path} is damaged: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file.

    Raises:
      WeightFileError: missing, no JSON, or no object.
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
