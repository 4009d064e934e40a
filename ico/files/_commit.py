"""Which commit the code in a folder is at: results and artefacts record it."""

import os
import subprocess
from pathlib import Path


def commit_of(folder: str | os.PathLike) -> str:
    """Short commit of the code in a folder, "-dirty" if a Python file differs, or "unknown"."""

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    if "site-packages" in Path(folder).parts:
        return "unknown"  # installed: a repository further up is not the code's
    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", ":/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
