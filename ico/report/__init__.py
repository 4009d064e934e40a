"""Run folder -> claims table, figures, one HTML page. Reads runs, never live objects.

Importing this package loads little; Matplotlib comes with the first function that needs it.
"""

import importlib
from typing import Any

from ico.report._claims import Band, Claim, Kind, Measurement, unjudged, verdict
from ico.report._measured import EveryPair, difference, measured, ratio
from ico.report._records import Missing, Record, Records, record
from ico.report._regression import Regression
from ico.report._statistics import (
    gaps,
    interval,
    interval_of,
    mean_band,
    median,
    resampled_means,
    spearman,
)

_LAZY = {
    "StudyResult": "_results",
    "save_study": "_results",
    "load_study": "_results",
    "write_results": "_results",
    "read_results": "_results",
    "style": "_figures",
    "palette": "_figures",
    "mean_line": "_figures",
    "canvas": "_figures",
    "legend_below": "_figures",
    "save_figure": "_figures",
    "write_html": "_html",
    "claims_markdown": "_table",
    "summary_markdown": "_table",
    "reproduction_table": "_table",
    "replace_between_markers": "_table",
}

__all__ = [
    "Band",
    "Claim",
    "EveryPair",
    "Kind",
    "Measurement",
    "Missing",
    "Record",
    "Records",
    "Regression",
    "difference",
    "gaps",
    "interval",
    "interval_of",
    "mean_band",
    "median",
    "measured",
    "ratio",
    "record",
    "resampled_means",
    "panels",
    "spearman",
    "unjudged",
    "verdict",
    *_LAZY,
]


def __getattr__(name: str) -> Any:
    if name == "panels":  # a module of its own: parts of pictures
        return importlib.import_module(f"{__name__}.panels")
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
