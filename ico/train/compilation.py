"""The persistent compilation cache."""

import os
import tempfile
import warnings
from pathlib import Path

import jax

from ico.files import cache_folder


def enable_compilation_cache(path: str | os.PathLike[str] | None = None) -> Path | None:
    """Keeps compiled programs on disk, so that a second run starts without compiling.

    Called by entry points, never at import.

    Args:
      path: the folder; by default $JAX_COMPILATION_CACHE_DIR, else $ICO_CACHE_DIR/xla, else
        ~/.cache/ico/xla.

    Returns:
      The folder in use, or None if it cannot be written: that only warns.
    """
    folder = None
    try:
        folder = (Path(path) if path is not None else _default_folder()).expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    # RuntimeError: whose home it is, is not known (no HOME, and a user without an entry).
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        where = f"cannot write {folder} ({reason})" if folder else reason.rstrip(".")
        warnings.warn(
            f"compilation cache is off: {where}; "
            "set JAX_COMPILATION_CACHE_DIR to a writable folder",
            stacklevel=2,
        )
        return None
    from jax.experimental.compilation_cache import compilation_cache

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    # Jax looks at the folder once, at its first compilation; something may have compiled before.
    compilation_cache.reset_cache()
    return folder


def _default_folder() -> Path:
    if folder := os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(folder)
    return cache_folder("xla")


def compile_quickly() -> None:
    """Leaves out most of the compiler's optimisations, for this process: for runs that are short.

    Compilation takes half the time; the program is slower and its last bits differ. To be called
    before JAX is first used: later calls leave out less.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    # XLA's older emitters of loops. Later versions have none, and end at a flag they do not know.
    flag = "--xla_cpu_use_fusion_emitters=false"
    if jax.__version_info__[:2] == (0, 10) and flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}"
