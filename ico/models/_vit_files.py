"""Published vision transformers, from the files they are published in.

Two layouts are known: the .npz of Google's vision_transformer (2010.11929, 2106.10270), and
safetensors with the config.json of transformers' `ViTForImageClassification` or `ViTModel`.

Dimension key: D width, H heads, A head width, P side of a patch, C channels, T tokens, K classes.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ico.files import FileError, check_fields, read_bytes, read_json, unpack_arrays
from ico.models._vit import ViT

_NPZ_BLOCK = "Transformer/encoderblock_{}/"
_HF_BLOCK = "encoder.layer.{}."
# The kinds of GELU that a config.json names: whether it is the exact one.
_GELUS = {"gelu": True, "gelu_new": False, "gelu_pytorch_tanh": False, "gelu_fast": False}
_PARTS = ("query", "key", "value", "out")
_CONFIG = {"num_attention_heads": int}


def load_vit(path: str | os.PathLike) -> tuple[ViT, dict[str, Any]]:
    """A vision transformer with a class token, and its parameters.

    Args:
      path: an .npz; or a .safetensors with a config.json beside it, or their folder.

    Returns:
      The module, and {"vit": its parameters, "head": {"kernel" [D, K], "bias" [K]}}, without "head"
      if the file has none: `ico.models.dense(params["head"], tokens[:, 0])` are its logits. Images
      are as large as the positions say, and scaled as the publisher says (for both layouts from -1
      to 1).

    Raises:
      FileNotFoundError: a file is not there.
      FileError: it cannot be read, or is no such transformer; the message names what is missing.
    """
    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    try:
        vit, params = _from_npz(path) if path.suffix == ".npz" else _from_safetensors(path)
        _check(path, vit, params)
    except (ValueError, TypeError, ZeroDivisionError, IndexError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path} is no vision transformer known here: {error}") from error
    return vit, jax.tree.map(jnp.asarray, params)


def _check(path: Path, vit: ViT, params: Mapping[str, Any]) -> None:
    """Every array has the shape that the module wants, for square images of that many patches."""
    own = params["vit"]
    side = math.isqrt(own["position"].shape[0] - 1)
    channels = own["embed_patches"]["kernel"].shape[0] // vit.patch**2
    image = jax.ShapeDtypeStruct((1, side * vit.patch, side * vit.patch, channels), jnp.float32)
    wanted = jax.eval_shape(vit.init, jax.random.key(0), image)["params"]
    shapes = [
        {jax.tree_util.keystr(at): leaf.shape for at, leaf in jax.tree.leaves_with_path(tree)}
        for tree in (wanted, own)
    ]
    for name in sorted({*shapes[0], *shapes[1]}):
        there, here = (one.get(name) for one in shapes)
        if there != here:
            raise FileError(f"{path}: {name} is {here}, and the model wants {there}")


def _from_npz(path: Path) -> tuple[ViT, dict[str, Any]]:
    found = _Tensors(path, _npz(path))
    for part, what in (("pre_logits", "a layer before its head"), ("conv_root", "convolutions")):
        if any(name.startswith(part) for name in found.tensors):
            raise FileError(f"{path} has {what} ({part}), which is not supported")
    first = _NPZ_BLOCK.format(0)
    D, H, _ = found(f"{first}MultiHeadDotProductAttention_1/query/kernel").shape
    depth = found.count(r"Transformer/encoderblock_(\d+)/")

    def block(i: int) -> dict[str, Any]:
        own = _NPZ_BLOCK.format(i)
        attention, mlp = f"{own}MultiHeadDotProductAttention_1/", f"{own}MlpBlock_3/"
        return {
            "attention_norm": found.pair(f"{own}LayerNorm_0/", "scale"),
            "attention": {
                n: found.pair(f"{attention}{n}/") for n in ("query", "key", "value", "out")
            },
            "mlp_norm": found.pair(f"{own}LayerNorm_2/", "scale"),
            "up": found.pair(f"{mlp}Dense_0/"),
            "down": found.pair(f"{mlp}Dense_1/"),
        }

    patches = found.pair("embedding/")
    params = {
        "class_token": found("cls").reshape(D),
        "position": found("Transformer/posembed_input/pos_embedding")[0],
        "embed_patches": patches | {"kernel": patches["kernel"].reshape(-1, D)},
        "norm": found.pair("Transformer/encoder_norm/", "scale"),
        **{f"block_{i}": block(i) for i in range(depth)},
    }
    vit = ViT(patches["kernel"].shape[0], D, depth, H, params["block_0"]["up"]["bias"].size, True)
    whole: dict[str, Any] = {"vit": params}
    if "head/kernel" in found:
        whole["head"] = found.pair("head/")
    return vit, whole


def _npz(path: Path) -> dict[str, np.ndarray]:
    return unpack_arrays(read_bytes(path), path)


def _from_safetensors(path: Path) -> tuple[ViT, dict[str, Any]]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    config = read_json(path.with_name("config.json"))
    check_fields(config, path.with_name("config.json"), _CONFIG)
    try:
        tensors = load(read_bytes(path))
    except SafetensorError as error:
        raise FileError(f"{path} is no safetensors file: {error}") from error
    tensors = {name.removeprefix("vit."): tensor for name, tensor in tensors.items()}
    found, H = _Tensors(path, tensors), config["num_attention_heads"]
    D = found("embeddings.cls_token").size
    if H < 1 or D % H:
        raise FileError(f"{path}: {H} heads do not divide a width of {D}")
    gelu = config.get("hidden_act", "gelu")
    if gelu not in _GELUS:
        raise FileError(f"{path} has hidden_act {gelu!r}, and here are {', '.join(_GELUS)}")
    depth = found.count(r"encoder\.layer\.(\d+)\.")

    def dense(name: str, shape: Callable[[int], tuple[int, ...]] | None = None):
        """PyTorch has kernels transposed."""
        kernel, bias = found(f"{name}.weight").T, found(f"{name}.bias")
        if shape is not None:
            kernel = kernel.reshape(shape(kernel.shape[0]))
        return {"kernel": kernel, "bias": bias}

    def norm(name: str):
        return {"scale": found(f"{name}.weight"), "bias": found(f"{name}.bias")}

    def block(i: int) -> dict[str, Any]:
        own = _HF_BLOCK.format(i)
        attention = {
            name: dense(f"{own}attention.attention.{name}", lambda n: (n, H, D // H))
            for name in ("query", "key", "value")
        }
        for one in attention.values():
            one["bias"] = one["bias"].reshape(H, D // H)
        out = dense(f"{own}attention.output.dense", lambda n: (H, n // H, D))
        return {
            "attention_norm": norm(f"{own}layernorm_before"),
            "attention": attention | {"out": out},
            "mlp_norm": norm(f"{own}layernorm_after"),
            "up": dense(f"{own}intermediate.dense"),
            "down": dense(f"{own}output.dense"),
        }

    patches = found("embeddings.patch_embeddings.projection.weight")  # [D, C, P, P]
    params = {
        "class_token": found("embeddings.cls_token").reshape(D),
        "position": found("embeddings.position_embeddings")[0],
        "embed_patches": {
            "kernel": patches.transpose(2, 3, 1, 0).reshape(-1, D),
            "bias": found("embeddings.patch_embeddings.projection.bias"),
        },
        "norm": norm("layernorm"),
        **{f"block_{i}": block(i) for i in range(depth)},
    }
    vit = ViT(
        patches.shape[-1],
        D,
        depth,
        H,
        params["block_0"]["up"]["bias"].size,
        True,
        float(config.get("layer_norm_eps", 1e-12)),
        _GELUS[gelu],
    )
    whole: dict[str, Any] = {"vit": params}
    if "classifier.weight" in found:
        whole["head"] = dense("classifier")
    return vit, whole


class _Tensors:
    """Tensors by name; one that is missing is a FileError that says so."""

    def __init__(self, path: Path, tensors: Mapping[str, np.ndarray]):
        self.path, self.tensors = path, tensors

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def __call__(self, name: str) -> np.ndarray:
        if name not in self.tensors:
            raise FileError(f"{self.path} is no vision transformer known here: it has no {name!r}")
        return np.asarray(self.tensors[name], np.float32)

    def pair(self, prefix: str, first: str = "kernel") -> dict[str, np.ndarray]:
        return {first: self(f"{prefix}{first}"), "bias": self(f"{prefix}bias")}

    def count(self, pattern: str) -> int:
        """How many blocks there are: one more than the largest number."""
        numbers = {int(m[1]) for name in self.tensors if (m := re.match(pattern, name))}
        if not numbers or numbers != set(range(len(numbers))):
            raise FileError(f"{self.path} is no vision transformer known here: blocks {numbers}")
        return len(numbers)
