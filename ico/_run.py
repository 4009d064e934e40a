"""A finished run, read back from its folder."""

import importlib
import os
import re
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ico.files import FileError, check_fields, read_json
from ico.train.artifacts import load_artifact

PyTree = Any


class LoadedModel(NamedTuple):
    """A trained model, and the spec it was trained from.

    `model` is None if the spec does not say how to build one. If the spec has "seeds", every
    parameter has a leading seed axis, and one seed is used as
    `model.apply({"params": loaded.seed(0)}, ...)`.
    """

    model: Any
    params: PyTree
    spec: dict[str, Any]

    def seed(self, index: int) -> PyTree:
        """The parameters of one seed.

        Raises:
          IndexError: there is no such seed.
          ValueError: the parameters have no seed axis.
        """
        seeds = self.spec.get("seeds")
        if seeds is None:
            raise ValueError("these parameters have no seed axis; use them as they are")
        if not -seeds <= index < seeds:
            raise IndexError(f"there are {seeds} seeds, none with index {index}")
        return jax.tree.map(lambda leaf: leaf[index], self.params)


class Run(NamedTuple):
    """A run's configuration, results (None while unfinished) and trained models by name.

    Two artefacts of one name appear under their full names, `<name>-<hash>`.
    """

    config: dict[str, Any]
    results: dict[str, Any] | None
    models: dict[str, LoadedModel]


def load_run(directory: str | os.PathLike[str]) -> Run:
    """Reads a run folder: configuration, results and every finished model.

    Args:
      directory: what `--out` named.

    Raises:
      FileNotFoundError: it does not exist or has no config.json.
      FileError: a JSON file is damaged, or a spec names no model of `ico.models`.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise FileNotFoundError(f"no run folder {directory}; give what a run got as --out")
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(f"{directory} is not a run folder: it has no config.json")
    config = read_json(directory / "config.json")
    path = directory / "results.json"
    results = read_json(path) if path.exists() else None
    folders = {}
    for folder in sorted((directory / "checkpoints").glob("*-*")):
        if match := re.fullmatch(r"(.+)-[0-9a-f]{12}", folder.name):
            folders.setdefault(match[1], []).append(folder)
    models = {}
    for name, same in folders.items():
        for folder in same:
            if (model := _load_model(folder)) is not None:
                models[name if len(same) == 1 else folder.name] = model
    return Run(config, results, models)


def _load_model(folder: Path) -> LoadedModel | None:
    found = load_artifact(folder)
    if found is None:
        return None
    path = folder / "spec.json"
    spec = read_json(path)
    if isinstance(spec.get("spec"), dict):  # what a run keeps has its seed beside it
        spec = spec["spec"] | {"seed": spec.get("seed")}
    if spec.get("seeds") is not None:
        check_fields(spec, path, {"seeds": int})
    params = found
    if spec.get("model") is not None:
        params = check_fields(found, folder / "arrays.npz", {"params": object})["params"]
    try:
        params = jax.tree.map(jnp.asarray, params)
    except TypeError as error:
        raise FileError(f"{folder / 'arrays.npz'} holds no numbers: {error}") from error
    return LoadedModel(_build(spec.get("model"), path), params, spec)


def _build(spec: Any, path: Path) -> Any:
    if spec is None:
        return None
    if isinstance(spec, dict) and "." in str(spec.get("class")):
        return None  # a class of somebody's own, which only their code can build
    models = importlib.import_module("ico.models")  # dear, and not every run has models
    from flax import linen as nn

    # Only a listed model: a spec is a file, and must not reach any other attribute.
    name = spec.get("class") if isinstance(spec, dict) else None
    kind = getattr(models, name) if isinstance(name, str) and name in models.__all__ else None
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise FileError(f"{path}: model {str(spec)[:200]} names no model of ico.models")
    try:
        return kind(**_tuples(spec.get("arguments", {})))
    except Exception as error:  # whatever the class makes of arguments of another type
        reason = " ".join(str(error).split())[:200]
        raise FileError(f"{path}: cannot build the model ({reason})") from error


def _tuples(value: Any) -> Any:
    """JSON turned tuples into lists; a Linen module's fields must be hashable."""
    if isinstance(value, list):
        return tuple(_tuples(x) for x in value)
    if isinstance(value, dict):
        return {key: _tuples(x) for key, x in value.items()}
    return value
