"""Checkpoints on disk: orbax behind a door, so that its next interface changes one file.

A checkpoint is a folder named by its step. It holds the state, and a record: the stream's
position (of every process), what the state is of (`_identity`), and shape, type and CRC of every
leaf. Orbax finds
missing files by itself; the record finds changed bytes, and tells a damaged checkpoint from a good
one of another model or optimizer. A damaged one is moved aside; nothing is ever deleted but what
`keep` drops.
"""

import contextlib
import errno
import functools
import itertools
import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ico.train import _processes
from ico.train._errors import CheckpointError
from ico.train._identity import describe_leaves, difference, identity
from ico.train._state import TrainState

PyTree = Any

_TEMPORARY = {
    errno.EACCES,
    errno.EAGAIN,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
    errno.EPERM,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
_TEMPORARY_MARKS = {
    "PERMISSION_DENIED": "no permission",
    "RESOURCE_EXHAUSTED": "not enough memory",
    "UNAVAILABLE": "the storage does not answer",
    "Too many open files": "too many open files",
}


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turns whatever goes wrong while writing into a CheckpointError that names `folder`."""
    try:
        yield
    except CheckpointError:
        raise
    # Orbax wraps a full disk into errors of several types, some of them bare RuntimeErrors.
    except Exception as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        full = os.strerror(errno.ENOSPC)
        reason = full if full in reason else reason[:200]
        raise CheckpointError(
            f"cannot write {folder}: {reason}; free space there or choose another folder with "
            "--out (a checkpoint counts only once it is complete, so --resume stays safe)"
        ) from error


class Checkpoints:
    """The checkpoints of one run, the newest `keep` of them, saved in the background.

    Args:
      directory: the folder; made if missing.
      keep: how many to keep.
      optimizer: what the states are updated by, so that those of another are told apart; None
        tells them apart by the structure of their states alone.

    Raises:
      CheckpointError: the folder cannot be made or written.
    """

    def __init__(self, directory: Path, keep: int, optimizer: Any = None):
        self.directory = Path(directory).absolute()  # orbax refuses relative paths
        self._optimizer = optimizer
        with writing(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True)
            _check_writable(self.directory)
            import orbax.checkpoint as ocp

            _silence()
            options = ocp.CheckpointManagerOptions(
                max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
            )
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        self._args = ocp.args

    def save(self, step: int, state: TrainState, position: Any) -> None:
        """Starts to write a checkpoint; returns once the state's buffers may be donated.

        Raises:
          CheckpointError: this one, or the one before in the background, could not be written.
          TypeError: `position` is not JSON-able.
        """
        json.dumps(position)
        record: dict[str, Any] = {"positions": _processes.of_all(position)}
        record["leaves"] = describe_leaves(state)
        record["of"] = identity(state, self._optimizer)
        if any(device.platform == "cpu" for device in state.step.devices()):
            # On the CPU orbax would write from a view of buffers that the next call donates.
            state = jax.tree.map(jnp.copy, state)
        with writing(self.directory), _stragglers():
            items = self._args.Composite(
                state=self._args.StandardSave(state), record=self._args.JsonSave(record)
            )
            if not self._manager.save(step, args=items):
                raise CheckpointError(
                    f"{self.directory} holds a checkpoint newer than step {step}; "
                    "does another process train there?"
                )

    def wait(self) -> None:
        """Waits for the background save. Raises CheckpointError if it failed."""
        with writing(self.directory), _stragglers():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Frees orbax's threads, and the space of a save that failed.

        Silent: whoever wants to hear of a failed save calls `wait`.
        """
        with contextlib.suppress(Exception), _stragglers():
            self._manager.close()
        if _processes.is_first():
            for unfinished in self.directory.glob("*.orbax-checkpoint-tmp"):
                shutil.rmtree(unfinished, ignore_errors=True)

    def newest(self) -> Path | None:
        """The newest complete checkpoint, None if there is none."""
        with contextlib.suppress(Exception):
            self._manager.wait_until_finished()
        self._manager.reload()
        step = self._manager.latest_step()
        return None if step is None else self.directory / str(step)

    def restore(self, like: TrainState) -> tuple[TrainState, Any] | None:
        """Restores the newest good checkpoint; damaged ones warn in a line and are moved aside.

        A checkpoint is damaged if its files are missing, cut or changed. One of something else, and
        one that cannot be read now (no permission, no memory), stays where it is.

        Args:
          like: a state of the wanted structure, shapes, types, sharding and key.

        Returns:
          (state, stream position), or None if there is no good checkpoint.

        Raises:
          CheckpointError: a good checkpoint is of another model, optimizer or seed, or cannot be
            read now.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for i, step in enumerate(steps):
            try:
                return self._restore(step, like)
            except CheckpointError:
                raise
            except Exception as error:
                if reason := _temporary(error):
                    raise CheckpointError(
                        f"cannot read checkpoint {self.directory / str(step)} ({reason}); "
                        "mend that and run again"
                    ) from error
                self._set_aside(step, error, steps[i + 1] if i + 1 < len(steps) else None)
        return None

    def _restore(self, step: int, like: TrainState) -> tuple[TrainState, Any]:
        ask = self._args.Composite(record=self._args.JsonRestore())
        record = self._manager.restore(step, args=ask)["record"]
        path = self.directory / str(step)
        if apart := difference(record["leaves"], record.get("of") or {}, like, self._optimizer):
            raise CheckpointError(
                f"checkpoint {path} is {apart}; use the same configuration or another folder"
            )
        target = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
        )
        ask = self._args.Composite(state=self._args.StandardRestore(target))
        try:
            with _stragglers():
                state = self._manager.restore(step, args=ask)["state"]
        except Exception as error:
            if record.get("of") or not (path / "state").is_dir():
                raise
            raise CheckpointError(
                f"checkpoint {path}, of an earlier version, cannot be restored: it is of another "
                "optimizer or damaged; use the same one, or move it away"
            ) from error
        for name, leaf in describe_leaves(state).items():
            if leaf["crc32"] != record["leaves"][name]["crc32"]:
                raise ValueError(f"the bytes of {name} have changed")
        if not np.array_equal(_processes.whole(state.key), _processes.whole(like.key)):
            raise CheckpointError(
                f"checkpoint {path} was made with another key; "
                "use the same --seed or another folder"
            )
        return state, _position(record, path)

    def _set_aside(self, step: int, error: Exception, before: int | None) -> None:
        damaged = self.directory / str(step)
        folder = self.directory.parent / "damaged-checkpoints"
        names = itertools.chain([str(step)], (f"{step}-{number}" for number in itertools.count(2)))
        aside = next(folder / name for name in names if not (folder / name).exists())
        then = "starting from scratch" if before is None else f"falling back to step {before}"
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
        warnings.warn(
            f"checkpoint {damaged} is damaged ({reason}); moved to {aside}; {then}", stacklevel=4
        )
        _processes.meet("a damaged checkpoint is found")
        with writing(aside):
            if _processes.is_first():
                folder.mkdir(exist_ok=True)
                os.replace(damaged, aside)
            _processes.meet("a damaged checkpoint is moved aside")
            self._manager.reload()


def _position(record: dict[str, Any], path: Path) -> Any:
    """Where the stream goes on, for the process that asks."""
    positions = record.get("positions", [record.get("position")])  # one, in earlier versions
    if all(position is None for position in positions):
        return None
    if len(positions) != jax.process_count():
        raise CheckpointError(
            f"checkpoint {path} was made by {len(positions)} processes, each with its own shard of "
            f"the data; there are {jax.process_count()} now"
        )
    return positions[jax.process_index()]


def _temporary(error: Exception) -> str | None:
    """What keeps a good checkpoint from being read, in words; None for damage.

    Tensorstore names its errors by a code in capitals at the front of their text.
    """
    if isinstance(error, OSError) and error.errno in _TEMPORARY:
        return os.strerror(error.errno)
    if isinstance(error, MemoryError):
        return "not enough memory"
    text = str(error)
    return next((words for mark, words in _TEMPORARY_MARKS.items() if mark in text), None)


def _check_writable(folder: Path) -> None:
    probe = folder.parent / f".writable-{os.getpid()}"
    probe.write_bytes(b"")
    probe.unlink()


@functools.cache
def _silence() -> None:
    """Drops what orbax prints of a failure: pages, of what is raised here in one line.

    For the rest of the process, since some of it comes when the garbage collector does.
    """
    before = sys.unraisablehook

    def unraisable(failure: Any) -> None:
        # Once one file has failed, tensorstore's other reads and writes end with nobody to tell.
        text = str(failure.exc_value)
        if not any(words in text for words in ("Event loop is closed", "TensorStore", "OCDBT")):
            before(failure)

    sys.unraisablehook = unraisable
    logging.getLogger("absl").addFilter(lambda record: "orbax" not in record.pathname)
    logging.getLogger("asyncio").addFilter(lambda record: "OCDBT" not in record.getMessage())


@contextlib.contextmanager
def _stragglers() -> Iterator[None]:
    """Waits, after a failure, for tensorstore's other threads: they end a little later."""
    try:
        yield
    except Exception:
        time.sleep(0.3)
        raise
