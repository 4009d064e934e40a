"""SIGTERM and Ctrl-C as a wish to stop, not a blow."""

import os
import signal
import threading
from types import FrameType
from typing import Any

_WATCHED = (signal.SIGTERM, signal.SIGINT)


class StopSignal:
    """While entered, the first SIGTERM or SIGINT only sets `name`; a second SIGINT interrupts.

    Outside the main thread Python lets nobody watch signals, and this does nothing. The handlers
    found on entry are put back on exit.
    """

    def __init__(self) -> None:
        self.name: str | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread():
            self._before = {one: signal.signal(one, self._handle) for one in _WATCHED}
        return self

    def __exit__(self, *_: object) -> None:
        for one, handler in self._before.items():
            # None stands for a handler that was not installed from Python.
            signal.signal(one, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and self.name is not None:
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        # Not print: the signal may have come while sys.stderr was being written to.
        os.write(2, f"{self.name}: stopping at the end of this compiled call\n".encode())
