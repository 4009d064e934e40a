"""Which experiments there are, and what their published results say. Loads no jax."""

from __future__ import annotations

import collections
import importlib
import json
import pkgutil
from pathlib import Path

from experiments._experiment import Experiment

FOLDER = Path(__file__).parent
_SHORT = {"reproduced": "reproduced", "not reproduced": "not", "inconclusive": "inconclusive"}


def discover() -> tuple[dict[str, Experiment], dict[str, str]]:
    """All experiments by name, and for each package that cannot be read one line that says why.

    An experiment is a package here whose `config.py` has `EXPERIMENT`.
    """
    found, broken = {}, {}
    for module in pkgutil.iter_modules([str(FOLDER)]):
        if not module.ispkg or not (FOLDER / module.name / "config.py").exists():
            continue
        try:
            config = importlib.import_module(f"experiments.{module.name}.config")
            found[module.name] = config.EXPERIMENT
        except Exception as error:  # one broken paper must not hide the others
            broken[module.name] = " ".join(f"{type(error).__name__}: {error}".split())
    return found, broken


def status(name: str, folder: Path = FOLDER) -> str:
    """Verdicts of the published results: "12 of 14 reproduced, 1 not, 1 inconclusive"."""
    try:
        results = json.loads((folder / name / "results.json").read_text())
        verdicts = collections.Counter(claim["verdict"] for claim in results["claims"])
    except FileNotFoundError:
        return "not published"
    except (ValueError, KeyError, TypeError):
        return "published results.json is damaged"
    parts = [f"{verdicts['reproduced']} of {verdicts.total()} reproduced"]
    others = [verdict for verdict in verdicts if verdict != "reproduced"]
    parts += [f"{verdicts[verdict]} {_SHORT.get(verdict, verdict)}" for verdict in sorted(others)]
    return ", ".join(parts)
