"""What takes long to make and can be made again, kept in the user's cache."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ico.files._read import FileError
from ico.files._trees import load_tree, pack_arrays
from ico.files._write import write_atomically


def cache_folder(name: str) -> Path:
    """$ICO_CACHE_DIR/name, or else ~/.cache/ico/name; it need not be there.

    Raises:
      RuntimeError: whose home it is, is not known.
    """
    if folder := os.environ.get("ICO_CACHE_DIR"):
        return Path(folder) / name
    return Path.home() / ".cache" / "ico" / name


def cached(
    name: str, depends_on: Any, make: Callable[[], Mapping[str, np.ndarray]]
) -> dict[str, np.ndarray]:
    """Arrays as they were made before, or made now and kept.

    A folder that cannot be written, or a damaged file, only costs the time to make them again.

    Args:
      name: of the folder in the cache, see `cache_folder`.
      depends_on: everything that the arrays depend on, as JSON can write it.
      make: makes them.
    """
    path, content = None, json.dumps(depends_on, sort_keys=True).encode()
    with contextlib.suppress(OSError, RuntimeError, FileError):
        path = cache_folder(name) / f"{hashlib.sha256(content).hexdigest()[:16]}.npz"
        return load_tree(path)
    arrays = {key: np.asarray(array) for key, array in make().items()}
    if path is not None:
        with contextlib.suppress(OSError):
            write_atomically(path, pack_arrays(arrays))
    return arrays
