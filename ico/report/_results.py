"""Studies on disk, and results.json: what a run measured, with its verdicts.

Every file is replaced in one step, so a run killed at any moment leaves old or new, never half.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ico.report._claims import Claim, Measurement, verdict

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


@dataclasses.dataclass
class StudyResult:
    """What one study hands back.

    Args:
      claims: one measurement a claim.
      tables: name -> rows; a row maps column -> number, string, bool or None.
      arrays: name -> array, for the figures; saved without pickle.
      notes: sentences for the reader, such as what was tried and failed.
      seconds: wall time.
      git: commit of the code that ran; set by `save_study`.
    """

    claims: list[Measurement] = dataclasses.field(default_factory=list)
    tables: dict[str, list[dict]] = dataclasses.field(default_factory=dict)
    arrays: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float | int = 0.0
    git: str = ""


def save_study(directory: str | os.PathLike, name: str, result: StudyResult) -> None:
    """Writes DIR/studies/<name>.json and .npz.

    The .json goes last and holds the checksum of the .npz: a pair that belongs together, or
    nothing. It may hold NaN and Infinity, which JSON proper lacks, so that they come back.

    Raises:
      ValueError: a name that is no plain file name, or an array of objects.
      OSError: no space, no permission.
    """
    path = _study_path(directory, name)
    arrays: dict[str, Any] = {}  # not of np.ndarray: savez has options beside the arrays
    for key, array in result.arrays.items():
        arrays[key] = _storable(key, array)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    content = {
        "claims": [dataclasses.asdict(measurement) for measurement in result.claims],
        "tables": result.tables,
        "notes": list(result.notes),
        "seconds": float(result.seconds),
        "git": git_commit(),
        "npz_sha256": hashlib.sha256(buffer.getvalue()).hexdigest(),
    }
    text = json.dumps(_plain(content, finite=False), indent=1)
    write_atomically(path.with_suffix(".npz"), buffer.getvalue())
    write_atomically(path, text + "\n")


def load_study(directory: str | os.PathLike, name: str) -> StudyResult | None:
    """The saved study, or None if there is none, or (with a warning on stderr) if it is damaged."""
    path = _study_path(directory, name)
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text())
        packed = path.with_suffix(".npz").read_bytes()
        if hashlib.sha256(packed).hexdigest() != content["npz_sha256"]:
            raise ValueError("the .npz is not the one saved with the .json")
        with np.load(io.BytesIO(packed), allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
        claims = []
        for row in content["claims"]:
            fields: dict[str, Any] = dict(row)
            fields["ci95"] = None if row["ci95"] is None else tuple(row["ci95"])
            claims.append(Measurement(**fields))
        return StudyResult(
            claims, content["tables"], arrays, content["notes"], float(content["seconds"]),
            content.get("git", ""),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"warning: {path} is damaged ({reason}); taken as absent", file=sys.stderr)
        return None


def write_results(
    directory: str | os.PathLike,
    *,
    experiment: str,
    preset: str,
    seed: int,
    claims: Sequence[Claim],
    studies: Mapping[str, StudyResult] | Iterable[str],
    config: Mapping[str, Any],
    seconds: float | int | None = None,
    device: str = "cpu",
) -> dict:
    """Judges every claim and writes DIR/results.json.

    Args:
      directory: the run folder.
      experiment: its name, as in `python -m experiments.<name>`.
      preset: smoke, cpu or paper.
      seed: of the run.
      claims: all that the experiment declares; those not measured get the verdict "not run".
      studies: the finished ones by name, or their names, to be loaded from the folder.
      config: the configuration as a plain mapping, published with the numbers.
      seconds: of the whole run; by default the sum over the studies.
      device: what computed: "cpu", or such as "8 x TPU v5e".

    Returns:
      What was written. Numbers that are not finite are null.

    Raises:
      ValueError: two claims or two measurements with one id, or a measurement of no claim.
    """
    if not isinstance(studies, Mapping):
        loaded = {name: load_study(directory, name) for name in studies}
        studies = {name: study for name, study in loaded.items() if study is not None}
    measured = [measurement for study in studies.values() for measurement in study.claims]
    _check_ids(claims, measured)
    by_id = {measurement.claim: measurement for measurement in measured}
    commit = git_commit()
    results = {
        "experiment": experiment,
        "preset": preset,
        "seed": seed,
        "git": commit,
        "versions": versions(),
        "machine": machine(device),
        "seconds": sum(s.seconds for s in studies.values()) if seconds is None else seconds,
        "training_seconds": training_seconds(directory),
        "claims": [_judged(claim, by_id.get(claim.id)) for claim in claims],
        "tables": {name: study.tables for name, study in studies.items() if study.tables},
        "studies": {
            name: {"seconds": study.seconds, "notes": study.notes, "git": study.git or commit}
            for name, study in studies.items()
        },
        "config": config,
    }
    results = _plain(results, finite=True)
    text = json.dumps(results, indent=1, allow_nan=False)
    write_atomically(Path(directory) / "results.json", text + "\n")
    return results


def training_seconds(directory: str | os.PathLike) -> float:
    """Seconds spent on the artefacts of a run, in all its processes.

    Of a model that logged its training, by its metrics.jsonl; of any other artefact, from when its
    making last began to when it was done, by the times of its files.
    """
    total = 0.0
    for done in sorted(Path(directory).glob("checkpoints/*/done.json")):
        if not (done.parent / "metrics.jsonl").exists():
            began = (done.parent / "spec.json").stat().st_mtime
            total += max(0.0, done.stat().st_mtime - began)
    for path in sorted(Path(directory).glob("checkpoints/*/metrics.jsonl")):
        lines = path.read_text().splitlines()
        try:
            total += float(json.loads(lines[-1])["seconds"])
        except (IndexError, KeyError, TypeError, ValueError):
            continue  # nothing logged yet, or the last line was cut off
    return total


def read_results(directory: str | os.PathLike) -> dict:
    """DIR/results.json.

    Raises:
      ValueError: missing, damaged or not a results file, in one line that names the path.
    """
    path = Path(directory) / "results.json"
    try:
        results = json.loads(path.read_text())
    except OSError as error:
        reason = error.strerror.lower() if error.strerror else str(error)
        raise ValueError(f"{path}: {reason}; give the folder of a run") from error
    except ValueError as error:
        raise ValueError(f"{path}: damaged ({error}); run the experiment again") from error
    needed = {"experiment", "preset", "seed", "claims", "seconds"}
    if not isinstance(results, dict) or not needed <= results.keys():
        raise ValueError(f"{path}: not the results of a run (wants {', '.join(sorted(needed))})")
    of_claim = {"id", "statement", "source", "measured", "unit", "band", "ci95", "verdict"}
    for claim in results["claims"]:
        if not isinstance(claim, dict) or not of_claim <= claim.keys():
            raise ValueError(f"{path}: a claim lacks one of {', '.join(sorted(of_claim))}")
    return results


def git_commit() -> str:
    """Short commit of this code, "-dirty" if a Python file differs from it, or "unknown"."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return "unknown"  # installed: a repository further up would not be ours

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return commit + ("-dirty" if git("status", "--porcelain", "--", "*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers; none is imported."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def machine(device: str) -> dict[str, str | int | None]:
    """What computed, without names of hosts or paths."""
    usable = getattr(os, "sched_getaffinity", None)  # Linux alone tells what we may use
    return {
        "device": device,
        "cores": len(usable(0)) if usable else os.cpu_count(),
        # platform.platform() would tell the kernel's build, which can name its host.
        "platform": f"{platform.system()} {platform.machine()}",
    }


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces `path` in one step, making its folder; leaves nothing behind on an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)  # the only way to read it; mkstemp's 0600 is not what a report wants
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _judged(claim: Claim, measurement: Measurement | None) -> dict:
    entry = {
        "id": claim.id,
        "statement": claim.statement,
        "source": claim.source,
        "measured": None,
        "unit": claim.unit,
        "band": claim.band,
        "n_seeds": None,
        "n_tasks": None,
        "ci95": None,
        "verdict": "not run",
        "note": "",
    }
    if measurement is None:
        return entry
    return entry | {
        "measured": measurement.value,
        "n_seeds": measurement.n_seeds,
        "n_tasks": measurement.n_tasks,
        "ci95": measurement.ci95,
        "verdict": verdict(claim, measurement),
        "note": measurement.note,
    }


def _check_ids(claims: Sequence[Claim], measured: Sequence[Measurement]) -> None:
    declared = collections.Counter(claim.id for claim in claims)
    counted = collections.Counter(measurement.claim for measurement in measured)
    twice = sorted(name for count in (declared, counted) for name, n in count.items() if n > 1)
    if twice:
        raise ValueError(f"claimed or measured twice: {', '.join(twice)}")
    unknown = sorted(counted.keys() - declared.keys())
    if unknown:
        raise ValueError(f"measured but never claimed: {', '.join(unknown)}; declare in config.py")


def _study_path(directory, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"study name {name!r}: use letters, digits, _ and - alone")
    return Path(directory) / "studies" / f"{name}.json"


def _storable(key: str, array) -> np.ndarray:
    if key in ("file", "allow_pickle"):
        raise ValueError(f"array name {key!r} is taken by numpy.savez")
    array = np.asarray(array)
    if array.dtype.kind == "O":
        raise ValueError(f"array {key!r} holds objects; give numbers or strings")
    # bfloat16 and its kin are void to .npz, which would lose what they are.
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def _plain(value: Any, finite: bool) -> Any:
    """`value` as JSON has it: arrays as lists, unknown things as text, NaN as null if `finite`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item, finite) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, finite) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return None if finite and not math.isfinite(value) else float(value)
    if hasattr(value, "tolist"):  # NumPy and JAX arrays and scalars
        return _plain(value.tolist(), finite)
    return str(value)
