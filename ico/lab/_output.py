"""Output that any terminal can show."""

import io
import sys


def print_what_fits() -> None:
    """From now on prints "?" for a character that the terminal's encoding lacks; never fails.

    Such as ASCII, where PYTHONIOENCODING or an old locale asks for it. For entry points.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
