"""Learned optimizers on disk: what was learned, and what it was learned on."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

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
      ValueError: an unknown optimizer or argument, or a theta for other settings.
      TypeError: settings or description that JSON has no form for.
    """
    settings = settings or {}
    make(name, theta=theta, **settings)
    text = json.dumps(
        {
            "format": _FORMAT,
            "name": name,
            "settings": _whole(name, settings),
            "trained_on": trained_on,
        },
        indent=1,
    )
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    flat = {
        jax.tree_util.keystr(place, simple=True, separator="/"): np.asarray(leaf)
        for place, leaf in jax.tree_util.tree_leaves_with_path(theta)
    }
    temporary = path / f".theta.{os.getpid()}.npz"
    np.savez(temporary, allow_pickle=False, **flat)
    os.replace(temporary, path / "theta.npz")
    temporary = path / f".optimizer.{os.getpid()}.json"
    temporary.write_text(text + "\n")
    os.replace(temporary, path / "optimizer.json")  # last: a folder without it holds nothing
    return path


def load(path: str | os.PathLike, **changes) -> optax.GradientTransformationExtraArgs:
    """A learned optimizer as an optax transform, from a folder that `save` or meta-training wrote.

    Args:
      path: the folder.
      **changes: arguments of the optimizer in place of those it was saved with, such as
        `num_steps=500` for another horizon.

    Raises:
      FileNotFoundError: no optimizer is there.
      ValueError: the folder's files are damaged or of another format, an unknown argument, or (of
        "l3rs") a change of `average` or of the number of base optimizers, for which theta is not.

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
      FileNotFoundError, ValueError: as `load`.
    """
    path = Path(path)
    if not (path / "optimizer.json").exists():
        raise FileNotFoundError(f"{path} holds no learned optimizer (optimizer.json)")
    try:
        found = json.loads((path / "optimizer.json").read_text())
        if found["format"] not in (1, _FORMAT):
            raise ValueError(f"format {found['format']}, this code reads 1 and {_FORMAT}")
        theta: dict = {}
        with np.load(path / "theta.npz", allow_pickle=False) as file:
            for name in file.files:
                *outer, last = name.split("/")
                place = theta
                for key in outer:
                    place = place.setdefault(key, {})
                place[_RENAMED.get(last, last)] = jnp.asarray(file[name])
        settings = {_RENAMED.get(key, key): value for key, value in found["settings"].items()}
        found["settings"] = _whole(found["name"], settings)
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: not a learned optimizer ({error})") from error
    return found, theta


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
