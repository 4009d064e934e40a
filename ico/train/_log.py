"""Metrics: JSONL to keep, TensorBoard to watch, a progress bar to wait by."""

import json
import math
import os
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ico.files import check_fields, parse_json, read_bytes, write_atomically
from ico.train import _processes
from ico.train._errors import CheckpointError
from ico.train.checkpoint import writing

Row = dict[str, Any]
_TENSORBOARD_SECONDS = 10.0


class MetricLog:
    """One row a compiled call, in memory and, given a directory, on disk by the first process.

    `directory/metrics.jsonl` has one object a line: step, seconds, each metric (a list over the
    seed axis). Floats round-trip exactly; those JSON lacks are the strings "nan", "inf", "-inf".

    Args:
      directory: the run's folder, or None.
      step: the step the run goes on from; rows beyond it are dropped, to be written again.
      resumed: whether rows up to `step` are expected; warns if they are gone.

    Raises:
      CheckpointError: the folder cannot be written.
    """

    def __init__(self, directory: Path | None, step: int, *, resumed: bool = False):
        self.directory, self._start = directory, step
        self._rows: list[Row] = []
        self._unseen: list[tuple[float, Row]] = []
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._file = self._board = None
        self._last_flush = time.time()
        self._path = path = (directory or Path()) / "metrics.jsonl"
        if directory is not None:
            with writing(path):
                self._rows = _read_rows(path, step)
                if resumed and (not self._rows or self._rows[-1]["step"] != step):
                    warnings.warn(
                        f"{path} has no row for the restored step {step}; the history has a gap",
                        stacklevel=3,
                    )
                _processes.meet("metrics are read")
                if _processes.is_first():
                    write_atomically(path, "".join(_encode(row) for row in self._rows))
                    self._file = path.open("a")
        for row in self._rows:
            for name, value in row.items():
                self._shapes.setdefault(name, np.shape(value))
        before = self._rows[-1]["seconds"] if self._rows else 0.0
        self._began = time.monotonic() - before

    def add(self, step: int, metrics: dict[str, Any]) -> None:
        """Logs metrics [*S] of the call that ended after `step` steps."""
        seconds = round(time.monotonic() - self._began, 3)
        row = {"step": step, "seconds": seconds}
        row |= {name: np.asarray(x, np.float64).tolist() for name, x in sorted(metrics.items())}
        for name, value in row.items():
            shape = self._shapes.setdefault(name, np.shape(value))
            if np.shape(value) != shape:
                raise CheckpointError(
                    f"{self._path} has {name!r} of shape {list(shape)} in earlier rows, here it is "
                    f"{list(np.shape(value))}; use the same metrics or another folder"
                )
        self._rows.append(row)
        if self._file is not None:
            with writing(self._path):
                self._file.write(_encode(row))
                self._file.flush()  # outlives a killed process; `sync` outlives the machine
            self._unseen.append((time.time(), row))
            if time.time() - self._last_flush > _TENSORBOARD_SECONDS:
                self._flush_tensorboard()

    def sync(self) -> None:
        """Puts everything on disk, as must be before a checkpoint says these steps are done."""
        if self._file is not None:
            with writing(self._path):
                os.fsync(self._file.fileno())
            self._flush_tensorboard()

    def close(self) -> None:
        """Closes the files; silent, since it also runs after an error."""
        for file in (self._file, self._board):
            if file is not None:
                try:
                    file.close()
                except OSError:
                    pass

    def history(self) -> dict[str, np.ndarray]:
        """Metric -> float64 [rows, *S], and "step" [rows]; "eval/step" for evaluations.

        NaN where a row lacks a metric that others have, since a run went on with other metrics.
        """
        evaluated = [row for row in self._rows if any(name.startswith("eval/") for name in row)]
        found: dict[str, np.ndarray] = {"step": np.array([r["step"] for r in self._rows], np.int64)}
        if evaluated:
            found["eval/step"] = np.array([row["step"] for row in evaluated], np.int64)
        for name in dict.fromkeys(name for row in self._rows for name in row):
            if name not in ("step", "seconds"):
                rows = evaluated if name.startswith("eval/") else self._rows
                absent = np.full(self._shapes[name], np.nan)
                values = [row.get(name, absent) for row in rows]
                found[name] = np.array(values, np.float64)
        return found

    def _flush_tensorboard(self) -> None:
        """Writes the rows not yet seen, each metric as its mean over the seed axis.

        Through EventsWriter, since SummaryWriter's queue blocks for ever once its thread has died
        of a full disk.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog
        from tensorboardX.proto.summary_pb2 import Summary

        folder = self._path.with_name("tensorboard")
        with writing(folder):
            if self._board is None:
                folder.mkdir(exist_ok=True)
                # The name has whole seconds only: two quick resumes must not share a file.
                self._board = EventsWriter(str(folder / "events"), f".{os.getpid()}.{self._start}")
                # TensorBoard hides what an earlier process wrote from this step on.
                start = SessionLog(status=SessionLog.START)
                self._board.write_event(
                    Event(wall_time=time.time(), step=self._start + 1, session_log=start)
                )
            for wall_time, row in self._unseen:
                values = [
                    Summary.Value(tag=name, simple_value=float(np.mean(value)))
                    for name, value in row.items()
                    if name not in ("step", "seconds")
                ]
                event = Event(wall_time=wall_time, step=row["step"], summary=Summary(value=values))
                self._board.write_event(event)
            self._board.flush()
        self._unseen.clear()
        self._last_flush = time.time()


class Progress:
    """A bar on stderr with the loss and the time left; nothing unless stderr is a terminal."""

    def __init__(self, label: str, start: int, total: int, show: bool):
        self._bar = None
        if show and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, initial=start, desc=label or None, unit="step", dynamic_ncols=True
            )

    def update(self, steps: int, loss: float) -> None:
        """Advances by `steps`; shows the loss."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            self._bar.update(steps)

    def close(self) -> None:
        """Leaves the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _encode(row: Row) -> str:
    return json.dumps(_map_floats(row, lambda x: x if math.isfinite(x) else repr(x))) + "\n"


def _map_floats(value: Any, change: Any) -> Any:
    if isinstance(value, dict):
        return {name: _map_floats(x, change) for name, x in value.items()}
    if isinstance(value, list):
        return [_map_floats(x, change) for x in value]
    return change(value) if isinstance(value, float | str) else value


def _read_rows(path: Path, step: int) -> list[Row]:
    """The rows up to `step`, without a last line that a kill cut short.

    Raises:
      CheckpointError: a line before that is not a row.
    """
    rows: list[Row] = []
    if path.exists():
        lines = read_bytes(path).splitlines(keepends=True)
        for number, line in enumerate(lines, start=1):
            try:
                row = _map_floats(parse_json(line, path), float)
                check_fields(row, path, {"step": int, "seconds": float})
                done = row["step"] > step
            except ValueError:
                if number == len(lines) and not line.endswith(b"\n"):
                    break
                raise CheckpointError(
                    f"{path}, line {number} is damaged; mend or delete the line"
                ) from None
            if done:
                break
            rows.append(row)
    return rows
