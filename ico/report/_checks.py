"""What results.json and the files of a study must hold, checked before anything uses it."""

from __future__ import annotations

import os
from typing import Any, get_args

from ico.files import FileError, check_fields
from ico.report._claims import Kind
from ico.report._format import SYMBOLS

_NONE = type(None)
_NUMBER = (float, _NONE)
_RUN = {
    "experiment": str,
    "preset": str,
    "seed": int,
    "seconds": float,
    "claims": list,
}
# Fields that results may lack, since files written earlier do.
_MORE_OF_RUN = {
    "git": str,
    "versions": dict,
    "machine": (dict, _NONE),
    "training_seconds": _NUMBER,
    "artifact_commits": list,
    "tables": dict,
    "studies": dict,
    "config": dict,
}
_CLAIM = {
    "id": str,
    "statement": str,
    "source": str,
    "measured": _NUMBER,
    "unit": str,
    "band": list,
    "ci95": (list, _NONE),
    "verdict": str,
}
_MORE_OF_CLAIM = {
    "kind": str,
    "paper_value": _NUMBER,
    "failure_rate": _NUMBER,
    "n_seeds": (int, _NONE),
    "n_tasks": (int, _NONE),
    "note": str,
}
# Those that are filled in where they are missing.
_DEFAULTS = {"kind": "paper", "paper_value": None, "failure_rate": None}
_MEASUREMENT = {
    "value": float,
    "ci95": (list, _NONE),
    "n_seeds": int,
    "n_tasks": int,
    "note": str,
    "failure_rate": _NUMBER,
    "claim": str,
}
_STUDY = {
    "claims": (list, _NONE),
    "tables": dict,
    "records": list,
    "notes": list,
    "seconds": float,
    "git": str,
    "npz_sha256": str,
}


def check_results(results: dict[str, Any], path: str | os.PathLike) -> None:
    """Checks the content of a results.json, and fills in what older files lack.

    Raises:
      FileError: a field is missing or of another type; the message names the file and the field.
    """
    _check(results, path, _RUN, _MORE_OF_RUN)
    for number, claim in enumerate(results["claims"]):
        where = f"{path}, claim {number}"
        _check(claim, where, _CLAIM, _MORE_OF_CLAIM)
        for name, default in _DEFAULTS.items():
            claim.setdefault(name, default)
        for name in ("band", "ci95"):
            if claim[name] is not None:
                _check_pair(claim[name], where, name)
        if claim["band"] == [None, None]:
            raise FileError(f"{where} is damaged: its band is open at both ends")
        _check_among(claim["verdict"], SYMBOLS, where, "verdict")
        _check_among(claim["kind"], get_args(Kind), where, "kind")
    _check_items(results.get("artifact_commits", []), str, f"{path}, artifact_commits")
    _check(results.get("machine") or {}, f"{path}, machine", {}, {"cores": (int, _NONE)})
    for study, tables in results.get("tables", {}).items():
        _check_tables(tables, f"{path}, tables of {study}")
    for study, entry in results.get("studies", {}).items():
        where = f"{path}, study {study}"
        _check(entry, where, {"seconds": float, "notes": list}, {"git": str})
        _check_items(entry["notes"], str, f"{where}, notes")


def check_study(content: dict[str, Any], path: str | os.PathLike) -> None:
    """Checks the content of a study's .json.

    Raises:
      FileError: as `check_results`.
    """
    _check(content, path, _STUDY, {"code": str})
    _check_items(content["notes"], str, f"{path}, notes")
    _check_tables(content["tables"], f"{path}, tables")
    for number, record in enumerate(content["records"]):
        where = f"{path}, record {number}"
        check_fields(record, where, {"name": str, "axes": dict})
        for axis, value in record["axes"].items():
            if isinstance(value, list | dict):
                raise FileError(f"{where} is damaged: axis {axis!r} is neither text nor number")
    for number, claim in enumerate(content["claims"] or ()):
        where = f"{path}, claim {number}"
        check_fields(claim, where, _MEASUREMENT)
        if set(claim) != set(_MEASUREMENT):
            raise FileError(f"{where} is damaged: it has unknown fields")
        if claim["ci95"] is not None:
            _check_pair(claim["ci95"], where, "ci95", open_ends=False)


def _check(
    found: Any, where: str | os.PathLike, needed: dict[str, Any], more: dict[str, Any]
) -> None:
    """Checks fields that must be there, and those that may be."""
    check_fields(found, where, needed)
    check_fields(found, where, {name: want for name, want in more.items() if name in found})


def _check_tables(tables: Any, where: str) -> None:
    if not isinstance(tables, dict):
        raise FileError(f"{where}: not an object")
    for name, rows in tables.items():
        if not isinstance(rows, list):
            raise FileError(f"{where}: {name!r} is not a list of rows")
        _check_items(rows, dict, f"{where}, {name}")


def _check_items(found: list, want: type, where: str) -> None:
    if wrong := [item for item in found if not isinstance(item, want)]:
        raise FileError(f"{where}: {str(wrong[0])[:40]!r} is not a {want.__name__}")


def _check_pair(found: list, where: str, name: str, open_ends: bool = True) -> None:
    """Two numbers in rising order; each may be None where ends may be open."""
    ends = [end for end in found if end is not None]
    numbers = all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends)
    if len(found) != 2 or not numbers or (len(ends) < 2 and not open_ends):
        raise FileError(f"{where} is damaged: {name!r} must be two numbers")
    if len(ends) == 2 and ends[0] > ends[1]:
        raise FileError(f"{where} is damaged: {name!r} has its larger end first")


def _check_among(found: str, known: Any, where: str, name: str) -> None:
    if found not in known:
        raise FileError(f"{where} is damaged: unknown {name} {found[:40]!r}")
