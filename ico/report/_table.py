"""Tables over runs, as Markdown and HTML, and the README sections made of them."""

from __future__ import annotations

import html
import os
from collections.abc import Sequence
from pathlib import Path

from ico.files import read_text, write_atomically
from ico.report import _format
from ico.report._results import read_results


def claims_markdown(results: dict) -> str:
    """The claims of one run: claim, paper, ours, band, verdict; and a last line with the cost.

    Core claims, sentences of the paper's abstract, are marked.
    """
    rows = []
    for claim in results["claims"]:
        source = f" ({claim['source']})" if claim["source"] else ""
        core = "Core: " if claim.get("kind") == "core" else ""
        verdict = f"{_format.SYMBOLS[claim['verdict']]} {claim['verdict']}"
        failed = claim.get("failure_rate")
        if failed is not None:
            verdict += f" ({100 * failed:.0f}% of starts failed)"
        rows.append(
            [
                core + claim["statement"] + source,
                _format.paper_value(claim),
                _measured(claim),
                _format.band(claim),
                verdict,
            ]
        )
    table = _markdown(["Claim", "Paper", "Ours [95% interval]", "Band", "Verdict"], rows)
    return f"{table}\n\n{_escape(_cost_line(results))}"


def summary_markdown(runs: Sequence[dict]) -> str:
    """One row a run: how many of its claims came out how, and what that cost."""
    return _markdown(*_summary(runs))


def reproduction_table(runs: Sequence[dict | str | os.PathLike], format: str = "markdown") -> str:
    """Many runs: one row a run, then the claims of each.

    Args:
      runs: run folders, or results as `read_results` gives them.
      format: "markdown", or "html" for a page that stands alone.

    Raises:
      ValueError: a folder without results, or an unknown format.
    """
    loaded = [run if isinstance(run, dict) else read_results(run) for run in runs]
    if format == "markdown":
        sections = [f"### {_escape(_name(run))}\n\n{claims_markdown(run)}" for run in loaded]
        return "\n\n".join([summary_markdown(loaded), *sections]) + "\n"
    if format != "html":
        raise ValueError(f"format {format!r}: choose markdown or html")
    from ico.report import _html

    header, rows = _summary(loaded)
    cells = [dict(zip(header, row, strict=True)) for row in rows]
    sections = [
        f"<section><h2>{html.escape(_name(run))}</h2>{_html.claims_table(run)}"
        f'<p class="muted">{html.escape(_cost_line(run))}</p></section>'
        for run in loaded
    ]
    body = f"<header><h1>Reproduction table</h1></header>{_html.data_table(cells)}"
    return _html.page("Reproduction table", body + "".join(sections))


def replace_between_markers(
    path: str | os.PathLike, marker: str, text: str, write: bool = True
) -> bool:
    """Rewrites what stands between `<!-- marker -->` and `<!-- /marker -->` in a file.

    With `write=False` it only checks.

    Returns:
      Whether the file changes.

    Raises:
      ValueError: the file is not UTF-8, lacks the pair, or has it twice or in the wrong order.
      OSError: the file cannot be read or written.
    """
    before = read_text(path)
    opening, closing = f"<!-- {marker} -->", f"<!-- /{marker} -->"
    if before.count(opening) != 1 or before.count(closing) != 1:
        raise ValueError(f"{path}: want exactly one {opening} ... {closing}")
    start, end = before.index(opening) + len(opening), before.index(closing)
    if end < start:
        raise ValueError(f"{path}: {closing} stands before {opening}")
    after = f"{before[:start]}\n\n{text.strip()}\n\n{before[end:]}"
    if write and after != before:
        write_atomically(Path(path), after)
    return after != before


def _summary(runs: Sequence[dict]) -> tuple[list[str], list[list[str]]]:
    verdicts = list(_format.SYMBOLS)
    header = [
        "Experiment (core / all claims)",
        *(f"{_format.SYMBOLS[v]} {v}" for v in verdicts),
        "Cost",
        "Commit",
    ]
    rows = []
    for run in runs:
        core, every = _format.counts(run, "core"), _format.counts(run)
        # Core claims first: they are what the abstract says.
        numbers = [f"{core[v]} / {every[v]}" for v in verdicts]
        rows.append([_name(run), *numbers, _format.cost(run), _format.commit(run)])
    return header, rows


def _measured(claim: dict) -> str:
    if claim["verdict"] == "not run":
        return "–"
    value, ends = _format.measured(claim)
    unit = f" {claim['unit']}" if claim["unit"] else ""
    return f"{value} [{ends.replace(' to ', ', ')}]{unit}" if ends else f"{value}{unit}"


def _name(run: dict) -> str:
    return f"{run['experiment']} (seed {run['seed']})"


def _cost_line(run: dict) -> str:
    return f"Measured with the {_format.cost(run)} (commit {_format.commit(run)})."


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *([_escape(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """One line that can neither leave its cell nor open a tag. Brackets stay readable."""
    text = " ".join(str(text).split())
    for character in "\\`*|":
        text = text.replace(character, "\\" + character)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
