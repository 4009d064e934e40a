"""Run folder -> claims table, figures, one HTML page. Reads runs, never live objects.

Importing this package loads the standard library alone; NumPy and Matplotlib come with the first
function that needs them.
"""

import importlib

from ico.report._claims import Claim, Measurement, unjudged, verdict

_LAZY = {
    "interval": "_statistics",
    "interval_of": "_statistics",
    "mean_band": "_statistics",
    "resampled_means": "_statistics",
    "measured": "_measured",
    "all_measured": "_measured",
    "ratio": "_measured",
    "difference": "_measured",
    "StudyResult": "_results",
    "save_study": "_results",
    "load_study": "_results",
    "write_results": "_results",
    "read_results": "_results",
    "write_atomically": "_results",
    "style": "_figures",
    "palette": "_figures",
    "band": "_figures",
    "canvas": "_figures",
    "legend_below": "_figures",
    "save_figure": "_figures",
    "draw_figures": "_figures",
    "write_html": "_html",
    "claims_markdown": "_table",
    "summary_markdown": "_table",
    "reproduction_table": "_table",
    "replace_between_markers": "_table",
}

__all__ = ["Claim", "Measurement", "unjudged", "verdict", *_LAZY]


def __getattr__(name: str):
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__():
    return sorted(__all__)
