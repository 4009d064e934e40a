"""Learned optimizers on disk: what was learned, and what it was learned on."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ico.files import (
    FileError,
    check_fields,
    load_tree,
    parse_json,
    read_json,
    save_tree,
    write_atomically,
)
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
    optimizers theta is for, which theta alone does not. What is written is read back and
    compared.

    Args:
      path: the folder; made if need be.
      name: as `make` knows it, "l3rs" say.
      theta: what was learned; nested dicts of arrays.
      settings: further arguments of the optimizer, numbers, strings and lists: `num_steps`,
        `base_optimizers` by name.
      trained_on: a description, of anything that JSON has.

    Raises:
      ValueError: an unknown optimizer or argument, a theta for other settings or that is no nested
        dict of arrays, or settings that JSON would change (keys that are no strings).
      TypeError: settings or description that JSON has no form for.
      OSError: the folder cannot be written.
    """
    settings = settings or {}
    make(name, theta=theta, **settings)
    found = {
        "format": _FORMAT,
        "name": name,
        "settings": _whole(name, settings),
        "trained_on": trained_on,
    }
    text = json.dumps(found, indent=1)
    if not _same(parse_json(text, "optimizer.json"), found):
        raise ValueError("settings and trained_on: JSON would not give these back as they are")
    path = Path(path)
    save_tree(path / "theta.npz", theta)
    write_atomically(path / "optimizer.json", text + "\n")  # last: without it there is nothing
    return path


def load(path: str | os.PathLike, **changes) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer as an optax transform, from a folder that `save` or meta-training wrote.

    Args:
      path: the folder.
      **changes: arguments of the optimizer in place of those it was saved with, such as
        `num_steps=500` for another horizon.

    Raises:
      FileNotFoundError: no optimizer is there.
      FileError: the folder's files are damaged or of another format, or make no optimizer.
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
    try:
        optimizer = make(found["name"], theta=theta, **settings)
        if found["name"] != "l3rs":  # which has checked theta's shapes
            _check_update(optimizer)
    except Exception as error:  # whatever a setting of another type, or a shape, leads to
        raise FileError(f"{path} makes no optimizer: {_first_line(error)}") from error
    return optimizer


def load_theta(path: str | os.PathLike) -> tuple[dict[str, Any], PyTree]:
    """The description of a saved optimizer (name, settings, trained_on), and theta.

    Raises:
      FileNotFoundError, FileError: as `load`.
    """
    path = Path(path)
    file = path / "optimizer.json"
    if not file.exists():
        raise FileNotFoundError(f"{path} holds no learned optimizer (optimizer.json)")
    found = check_fields(read_json(file), file, {"format": int, "name": str, "settings": dict})
    if found["format"] not in (1, _FORMAT):
        raise FileError(f"{file} is of format {found['format']}; this code reads 1 and {_FORMAT}")
    settings = {_RENAMED.get(key, key): value for key, value in found["settings"].items()}
    try:
        found["settings"] = _whole(found["name"], settings)
    except (TypeError, ValueError) as error:
        raise FileError(f"{file} has unusable settings: {_first_line(error)}") from error
    found.setdefault("trained_on", None)
    try:
        theta = _renamed(load_tree(path / "theta.npz"))
    except FileNotFoundError as error:
        raise FileError(f"{path} holds an optimizer.json, but no theta.npz") from error
    except TypeError as error:
        raise FileError(f"{path / 'theta.npz'} holds no numbers: {error}") from error
    return found, theta


def _renamed(theta: PyTree) -> PyTree:
    """The tree on the device, with the names of today at its leaves."""
    return {
        _RENAMED.get(name, name): _renamed(value) if isinstance(value, dict) else jnp.asarray(value)
        for name, value in theta.items()
    }


def _check_update(optimizer: optax.GradientTransformationExtraArgs) -> None:
    """Raises whatever one update raises; computes nothing."""
    params = {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}
    state = jax.eval_shape(optimizer.init, params)
    loss = jax.ShapeDtypeStruct((), jnp.float32)
    jax.eval_shape(lambda p, s, x: optimizer.update(p, s, p, value=x), params, state, loss)


def _same(read: Any, written: Any) -> bool:
    """Whether JSON gave back what it was given; lists count as tuples, and NaN as itself."""
    if isinstance(written, list | tuple):
        return (
            isinstance(read, list) and len(read) == len(written) and all(map(_same, read, written))
        )
    if isinstance(written, dict):
        return (
            isinstance(read, dict)
            and len(read) == len(written)
            and all(key in read and _same(read[key], value) for key, value in written.items())
        )
    return read == written or (read != read and written != written)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


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
