"""Files that are replaced in one step."""

import os
import tempfile
from pathlib import Path


def write_atomically(path: str | os.PathLike, content: str | bytes) -> None:
    """Replaces a file in one step, making its folder; leaves nothing behind on an error.

    A process killed at any moment leaves the old file or the new one. Both the bytes and the
    replacement are on disk when this returns.

    Raises:
      OSError: no space, no permission.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)  # the only way to read it; mkstemp's 0600 is not what readers want
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
