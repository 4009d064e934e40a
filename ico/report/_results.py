"""Studies on disk, and results.json: what a run measured, with its verdicts.

Every file is replaced in one step, so a run killed at any moment leaves old or new, never half.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ico.files import (
    FileError,
    check_fields,
    commit_of,
    pack_arrays,
    parse_json,
    read_bytes,
    read_json,
    read_text,
    unpack_arrays,
    write_atomically,
)
from ico.report._checks import check_results, check_study
from ico.report._claims import Claim, Measurement, verdict
from ico.report._records import Record, Records

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


@dataclasses.dataclass
class StudyResult:
    """What is kept of one study.

    Args:
      records: what it found, for claims, tables and figures.
      claims: one measurement a claim; None if they have not been measured yet.
      tables: name -> rows; a row maps column -> number, string, bool or None.
      notes: sentences for the reader, such as what was tried and failed.
      seconds: wall time.
      git: commit of the code that ran.
      code: a hash of the code that declares claims, tables and figures.
    """

    records: Records = dataclasses.field(default_factory=Records)
    claims: list[Measurement] | None = dataclasses.field(default_factory=list)
    tables: dict[str, list[dict]] = dataclasses.field(default_factory=dict)
    notes: list[str] = dataclasses.field(default_factory=list)
    seconds: float | int = 0.0
    git: str = ""
    code: str = ""


def save_study(directory: str | os.PathLike, name: str, result: StudyResult) -> None:
    """Writes DIR/studies/<name>.json and .npz.

    The .json goes last and holds the checksum of the .npz: a pair that belongs together, or
    nothing. It may hold NaN and Infinity, which JSON proper lacks, so that they come back.

    Raises:
      ValueError: a name that is no plain file name, or an array of objects.
      OSError: no space, no permission.
    """
    path = _study_path(directory, name)
    arrays = {
        f"{number:05d}/{value}": array
        for number, record in enumerate(result.records)
        for value, array in record.values.items()
    }
    packed = pack_arrays(arrays)
    claims = result.claims
    content = {
        "claims": None if claims is None else [dataclasses.asdict(claim) for claim in claims],
        "tables": result.tables,
        "records": [{"name": r.name, "axes": dict(r.axes)} for r in result.records],
        "notes": list(result.notes),
        "seconds": float(result.seconds),
        "git": result.git or commit_of(Path(__file__).parent),
        "code": result.code,
        "npz_sha256": hashlib.sha256(packed).hexdigest(),
    }
    text = json.dumps(_plain(content, finite=False), indent=1)
    write_atomically(path.with_suffix(".npz"), packed)
    write_atomically(path, text + "\n")


def load_study(directory: str | os.PathLike, name: str) -> StudyResult | None:
    """The saved study, or None if there is none, or (with a warning on stderr) if it is damaged."""
    path = _study_path(directory, name)
    if not path.exists():
        return None
    try:
        content = read_json(path)
        check_study(content, path)
        packed = read_bytes(path.with_suffix(".npz"))
        if hashlib.sha256(packed).hexdigest() != content["npz_sha256"]:
            raise ValueError("the .npz is not the one saved with the .json")
        records = _records(content["records"], unpack_arrays(packed))
        claims = None if content["claims"] is None else [_measurement(c) for c in content["claims"]]
        return StudyResult(
            Records(records, content["notes"]),
            claims,
            content["tables"],
            content["notes"],
            float(content["seconds"]),
            content["git"],
            content.get("code", ""),
        )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"warning: {path} is damaged ({reason}); taken as absent", file=sys.stderr)
        return None


def _records(described: list[dict], arrays: Mapping[str, np.ndarray]) -> list[Record]:
    values: list[dict[str, np.ndarray]] = [{} for _ in described]
    for key, array in arrays.items():
        number, _, value = key.partition("/")
        if not (number.isdecimal() and int(number) < len(values)):
            raise FileError(f"array {key[:40]!r} is of no record")
        values[int(number)][value] = array
    return [Record(d["name"], d["axes"], v) for d, v in zip(described, values, strict=True)]


def _measurement(row: Mapping[str, Any]) -> Measurement:
    fields: dict[str, Any] = dict(row)
    fields["ci95"] = None if row["ci95"] is None else tuple(row["ci95"])
    return Measurement(**fields)


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
    git: str | None = None,
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
      git: commit of the experiment's code; None is that of `ico`.

    Returns:
      What was written. Numbers that are not finite are null.

    Raises:
      ValueError: two claims or two measurements with one id, or a measurement of no claim.
    """
    if not isinstance(studies, Mapping):
        loaded = {name: load_study(directory, name) for name in studies}
        studies = {name: study for name, study in loaded.items() if study is not None}
    measured = [measurement for study in studies.values() for measurement in study.claims or ()]
    _check_ids(claims, measured)
    by_id = {measurement.claim: measurement for measurement in measured}
    commit = commit_of(Path(__file__).parent) if git is None else git
    results = {
        "experiment": experiment,
        "preset": preset,
        "seed": seed,
        "git": commit,
        "versions": versions(),
        "machine": machine(device),
        "seconds": sum(s.seconds for s in studies.values()) if seconds is None else seconds,
        "training_seconds": training_seconds(directory),
        "artifact_commits": artifact_commits(directory),
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
    for path in sorted(Path(directory).glob("checkpoints/**/metrics.jsonl")):
        try:
            last = parse_json(read_text(path).splitlines()[-1], path)
            total += check_fields(last, path, {"seconds": float})["seconds"]
        except (IndexError, FileError):
            continue  # nothing logged yet, or the last line was cut off
    return total


def artifact_commits(directory: str | os.PathLike) -> list[str]:
    """The commits of the code that made what a run keeps, sorted."""
    found = set()
    for done in Path(directory).glob("checkpoints/*/done.json"):
        try:
            found.add(str(read_json(done).get("git", "unknown")))
        except (OSError, ValueError):
            continue  # `load_artifact` says that it is damaged
    return sorted(found)


def read_results(directory: str | os.PathLike) -> dict:
    """DIR/results.json, or a results file itself; what older files lack is filled in.

    Raises:
      FileError: missing, damaged or not a results file, in one line that names the path.
    """
    path = Path(directory)
    path = path if path.suffix == ".json" else path / "results.json"
    try:
        results = read_json(path, finite=True)
    except FileNotFoundError:
        raise FileError(f"{path} does not exist; give the folder of a run") from None
    check_results(results, path)
    return results


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
        "kind": claim.kind,
        "paper_value": claim.paper_value,
        "failure_rate": None,
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
        "failure_rate": measurement.failure_rate,
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
        raise ValueError(f"measured but never claimed: {', '.join(unknown)}; declare them first")


def _study_path(directory, name: str) -> Path:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise ValueError(f"study name {name!r}: use letters, digits, _ and - alone")
    return Path(directory) / "studies" / f"{name}.json"


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
