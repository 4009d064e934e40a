"""The folder of a run: who may write to it, what configuration it holds, what is left to do."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ico.files import read_json, write_atomically
from ico.lab._command_line import Request
from ico.lab._errors import InputError
from ico.lab._paper import Paper

_CONFIG = "config.json"
_LOCK = ".lock"
_UNFINISHED = ".unfinished.json"
_NEEDED_BYTES = 64 * 2**20
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {
    errno.EACCES,
    errno.EEXIST,  # a link to nowhere, where a folder is to be made
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


def storage_error(path: Path | str, error: OSError) -> InputError | None:
    """The one-line form of an error that the user's disk makes, or None for any other."""
    if error.errno in _NO_SPACE:
        return InputError("out", f"no space left for {path}; free some or choose another --out")
    if error.errno in _REFUSED:
        reason = os.strerror(error.errno).lower()
        return InputError("out", f"cannot write {path} ({reason}); choose another --out")
    return None


def check(paper: Paper, request: Request) -> None:
    """Refuses a folder that cannot be used, before anything is written."""
    with _storage_errors(request.directory):
        _check_place(request.directory)
        _check_config(paper, request)


def _check_place(directory: Path) -> None:
    places = [directory, *directory.absolute().parents]
    existing = next(path for path in places if path.exists() or path.is_symlink())
    if not existing.exists():
        raise InputError("out", f"{existing} is a link to nothing; choose another --out")
    if not existing.is_dir():
        raise InputError("out", f"{existing} is a file; give a folder")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError("out", f"{existing} is not writable; choose another --out")
    if shutil.disk_usage(existing).free < _NEEDED_BYTES:
        raise InputError(
            "out",
            f"no space left in {existing} (less than {_NEEDED_BYTES >> 20} MiB); free some "
            "or choose another --out",
        )


def unfinished_studies(directory: Path) -> list[str]:
    """Studies that were asked for in this folder and have not been completed."""
    path = directory / _UNFINISHED
    try:
        found = read_json(path, list)
    except FileNotFoundError:
        return []
    except ValueError as error:
        raise InputError("out", f"{error}; delete that file or choose another --out") from None
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise InputError("out", f"{path} names no study by {wrong[0]!r}; delete that file")
    return found


def mark_unfinished(directory: Path, studies: list[str]) -> None:
    """Notes which studies are still to be done; an empty list means that the run is finished."""
    if studies:
        write_atomically(directory / _UNFINISHED, json.dumps(studies))
    else:
        (directory / _UNFINISHED).unlink(missing_ok=True)


def config_dict(config: Any) -> dict[str, Any]:
    """The configuration as JSON would give it back: tuples as lists, paths as strings."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


@contextlib.contextmanager
def claim(paper: Paper, request: Request) -> Iterator[None]:
    """Makes the folder ours for the time of the run, with its configuration in it."""
    directory = request.directory
    fresh = not directory.exists()
    with _storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        lock = _lock(directory)
    try:
        # Once more, under the lock: another process may have been faster.
        _check_config(paper, request)
        try:
            with _storage_errors(directory):
                _write_config(paper, request)
        except InputError:
            if fresh:
                shutil.rmtree(directory, ignore_errors=True)
            raise
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        known = storage_error(path, error)
        if known is None:
            raise
        raise known from error


def _write_config(paper: Paper, request: Request) -> None:
    path = request.directory / _CONFIG
    if not path.exists() or not holds_anything(request.directory):
        text = json.dumps(_description(paper, request), indent=2)
        write_atomically(path, text + "\n")


def _lock(directory: Path) -> int:
    """A record lock on `.lock`. The kernel drops it with its process, so none is ever stale."""
    path = directory / _LOCK
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            owner = os.read(handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise InputError(
                "out",
                f"process {owner} is writing to {directory}; wait for it or choose another --out",
            ) from None
        # A file system without locks (some network mounts): go on without one.
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            os.close(handle)
            raise
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _description(paper: Paper, request: Request) -> dict[str, Any]:
    return {
        "experiment": paper.name,
        "preset": request.preset,
        "seed": request.seed,
        "config": config_dict(request.config),
    }


def holds_anything(directory: Path) -> bool:
    """Whether a run in it got as far as to leave something that its configuration speaks of."""
    return any((directory / name).exists() for name in ("studies", "checkpoints", "results.json"))


def _is_foreign(directory: Path) -> bool:
    """Whether what would be overwritten in a folder is somebody else's."""
    ours = ("results.json", "report.html", "studies", "checkpoints", _CONFIG)
    if not any((directory / name).exists() for name in ours):
        return False
    if not (directory / _CONFIG).exists():
        return True
    try:
        return "experiment" not in read_json(directory / _CONFIG)
    except ValueError:
        return False  # damaged: said elsewhere


def _check_config(paper: Paper, request: Request) -> None:
    """Refuses a folder that holds another configuration, and names the first differences."""
    path = request.directory / _CONFIG
    if _is_foreign(request.directory):
        raise InputError("out", f"{request.directory} holds no run of ours; choose another --out")
    if not path.exists() or not holds_anything(request.directory):
        return
    try:
        held = read_json(path)
    except ValueError as error:
        raise InputError("out", f"{error}; delete that folder or choose another --out") from None
    old, new = _flat(held), _flat(_description(paper, request))
    differences = [
        f"{name.removeprefix('config.')} {old.get(name, 'absent')} -> {new.get(name, 'absent')}"
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]
    if differences:
        more = f" and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            "out",
            f"{request.directory} holds another configuration ({', '.join(differences[:3])}{more});"
            " choose another --out",
        )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for name, value in tree.items():
        if isinstance(value, dict) and value:
            leaves |= _flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
