"""Which experiments there are, and what their published results say."""

from __future__ import annotations

import collections
import importlib
import pkgutil
from pathlib import Path

from ico.lab import Paper
from ico.report import read_results

FOLDER = Path(__file__).parent
_SHORT = {"reproduced": "reproduced", "not reproduced": "not", "inconclusive": "inconclusive"}


def modules() -> dict[str, str]:
    """Name -> module that defines it: a package here with `paper.py`, or a file in `systems`."""
    found = {
        module.name: f"experiments.{module.name}.paper"
        for module in pkgutil.iter_modules([str(FOLDER)])
        if module.ispkg and (FOLDER / module.name / "paper.py").exists()
    }
    for module in pkgutil.iter_modules([str(FOLDER / "systems")]):
        if not module.ispkg and not module.name.startswith("_"):
            found[module.name] = f"experiments.systems.{module.name}"
    return found


def find(name: str) -> Paper:
    """The experiment of that name.

    Raises:
      KeyError: there is none.
    """
    return importlib.import_module(modules()[name]).paper


def discover() -> tuple[dict[str, Paper], dict[str, str]]:
    """All experiments by name, and for each that cannot be read one line that says why."""
    found, broken = {}, {}
    for name in modules():
        try:
            found[name] = find(name)
            found[name].studies  # noqa: B018 (loads the files of its studies)
        except Exception as error:  # one broken paper must not hide the others
            broken[name] = " ".join(f"{type(error).__name__}: {error}".split())
    return {name: found[name] for name in found if name not in broken}, broken


def status(paper: Paper) -> str:
    """Verdicts of the published results: "12 of 14 reproduced, 1 not, 1 inconclusive"."""
    if not paper.published.exists():
        return "not published"
    try:
        results = read_results(paper.published)
    except ValueError:
        return "published results are damaged"
    verdicts = collections.Counter(claim["verdict"] for claim in results["claims"])
    parts = [f"{verdicts['reproduced']} of {verdicts.total()} reproduced"]
    others = sorted(verdict for verdict in verdicts if verdict != "reproduced")
    return ", ".join(parts + [f"{verdicts[v]} {_SHORT.get(v, v)}" for v in others])
