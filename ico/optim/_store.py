"""Learned optimizers on disk: what was learned, and what it was learned on."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ico import files
from ico.optim._registry import l3rs_config, make

PyTree = Any
_FORMAT = 2
_HORIZON = ("num_steps", "learning_rate")  # arguments of L3RS.optimizer, not fields
# Names in format 1, of settings and of theta.
_RENAMED = {"shared_step": "shared_learning_rate", "log_step": "log_learning_rate"}


def save(
    path: str | os.PathLike,
    name: str,
    theta: PyTree,
    settings: dict[str, Any] | None = None,
    trained_on: Any = None,
) -> Path:
    """Writes a learned optimizer to the folder `path`: optimizer.json and theta.npz.

    Of "l3rs" all fields of the configuration are written, defaults too: they say how many base
    optimizers theta is for, which theta alone does not.

    Args:
      path: the folder; made if need be.
      name: as `make` knows it, "l3rs" say.
      theta: what was learned; nested dicts of arrays.
      settings: further arguments of the optimizer, numbers, strings and lists: `num_steps`,
        `base_optimizers` by name.
      trained_on: a description, of anything that JSON has.

    Raises:
      ValueError: an unknown optimizer or argument, a theta for other settings, or anything that
        would come back different, such as keys of dicts that are not strings. Nothing is written.
      TypeError: settings or description that JSON has no form for.
      OSError: the files cannot be written.
    """
    settings = settings or {}
    make(name, theta=theta, **settings)
    path = Path(path)
    description = {
        "format": _FORMAT,
        "name": name,
        "settings": _whole(name, settings),
        "trained_on": trained_on,
    }
    text = json.dumps(description)
    if not _is_same(files.parse_json(text, path / "optimizer.json"), description):
        raise ValueError(f"{path}: settings and description must be what JSON gives back")
    description["theta_sha256"] = files.save_tree(path / "theta.npz", theta)
    # Last: a folder without it holds nothing.
    files.write_atomically(path / "optimizer.json", json.dumps(description, indent=1) + "\n")
    return path


def load(path: str | os.PathLike, **changes) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer as an optax transform, from a folder that `save` or meta-training wrote.

    Args:
      path: the folder.
      **changes: arguments of the optimizer in place of those it was saved with, such as
        `num_steps=500` for another horizon.

    Raises:
      FileNotFoundError: no optimizer is there.
      ico.files.FileError: one of the folder's files is damaged or of another format.
      ValueError: an unknown argument, or (of "l3rs") a change of `average` or of the number of base
        optimizers, for which theta is not.

    Example:
      folder = "runs/learned_optimizer/cpu-0/optimizers/l3rs-digits"
      optimizer = ico.optim.load(folder, num_steps=200)
      updates, state = optimizer.update(grads, state, params, value=loss)
    """
    found, theta = load_theta(path)
    settings = found["settings"] | changes
    if found["name"] == "l3rs":
        _check_outputs(path, found["settings"], settings)
    return make(found["name"], theta=theta, **settings)


def load_theta(path: str | os.PathLike) -> tuple[dict[str, Any], PyTree]:
    """The description of a saved optimizer (name, settings, trained_on), and theta.

    Raises:
      FileNotFoundError, ico.files.FileError: as `load`.
    """
    path = Path(path)
    file = path / "optimizer.json"
    if not file.exists():
        raise FileNotFoundError(f"{path} holds no learned optimizer (optimizer.json)")
    found = files.check_fields(
        files.read_json(file), file, {"format": int, "name": str, "settings": dict}
    )
    if found["format"] not in (1, _FORMAT):
        raise files.FileError(
            f"{file} has format {found['format']}; this code reads 1 and {_FORMAT}"
        )
    is_old = found["format"] == 1
    # With the checksum, theta is known to be the one that this file describes.
    theta = files.load_tree(path / "theta.npz", found.pop("theta_sha256", None))
    try:
        found["settings"] = _whole(found["name"], _renamed(found["settings"], is_old))
        theta = jax.tree.map(jnp.asarray, _renamed(theta, is_old))
        make(found["name"], theta=theta, **found["settings"])
    except Exception as error:  # whatever comes of settings that are of other types
        reason = " ".join(str(error).split())[:300]
        raise files.FileError(
            f"{file} and theta.npz beside it make no optimizer: {reason}"
        ) from error
    return found, theta


def _renamed(tree: dict[str, Any], is_old: bool) -> dict[str, Any]:
    """Settings or theta under the names of today."""
    return {_RENAMED.get(key, key): value for key, value in tree.items()} if is_old else tree


def _is_same(a: Any, b: Any) -> bool:
    """Whether a value from JSON is another one; tuples are lists, and NaN is itself."""
    if isinstance(b, dict):
        return isinstance(a, dict) and a.keys() == b.keys() and all(_is_same(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return isinstance(a, list) and len(a) == len(b) and all(map(_is_same, a, b))
    return a == b or (a != a and b != b)


def _whole(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with, of "l3rs", the defaults that they leave open."""
    if name != "l3rs":
        return settings
    given = {key: settings[key] for key in _HORIZON if key in settings}
    config = l3rs_config({key: value for key, value in settings.items() if key not in _HORIZON})
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config)} | given


def _check_outputs(path, saved: dict[str, Any], settings: dict[str, Any]) -> None:
    """Raises ValueError where theta's outputs would be taken for something else."""
    found = len(saved["base_optimizers"]), saved["average"]
    asked = len(settings["base_optimizers"]), settings["average"]
    if found != asked:
        kinds = [
            f"{bases} base optimizers {'and an' if average else 'without'} average"
            for bases, average in (found, asked)
        ]
        raise ValueError(f"{path}: theta is for {kinds[0]}, not for {kinds[1]}")
