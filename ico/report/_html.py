"""report.html: a run as one page that opens without a network.

Everything on the page comes from the run folder and is escaped; nothing is fetched and nothing
runs, and the page's own content policy forbids both.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from ico.files import read_bytes, read_json, write_atomically
from ico.report import _format, _plot
from ico.report._css import CSS
from ico.report._results import read_results

_LARGEST_SVG = 1_000_000  # bytes; a scatter of many points is smaller as pixels
_MANY_ROWS = 24


def write_html(
    directory: str | os.PathLike,
    *,
    title: str,
    paper: str,
    figures: Sequence[tuple[str, str, str]] = (),
    questions: Mapping[str, str] | None = None,
    abstract: str = "",
    link: str = "",
) -> Path:
    """Writes DIR/report.html from results.json, config.json and figures/.

    Args:
      directory: the run folder.
      title: of the paper.
      paper: authors, year, where.
      figures: (study, figure name, caption) in the order of showing.
      questions: what each study asks; its order is the order of the sections.
      abstract: what the paper claims, in a sentence or two.
      link: https address of the paper.

    Raises:
      ValueError: no results.json, or a damaged one.
    """
    directory = Path(directory)
    results = read_results(directory)
    questions = questions or {}
    shown: dict[str, list[str]] = {}
    for study, name, caption in figures:
        shown.setdefault(study, []).append(_figure(directory, name, caption))
    claimed = [_study(claim) for claim in results["claims"]]
    studies = dict.fromkeys([*questions, *claimed, *results.get("studies", {}), *shown])
    body = [
        _header(results, title, paper, abstract, link),
        f'<section id="claims"><h2>Claims</h2>{claims_table(results, links=True)}</section>',
        *(_section(results, s, questions.get(s, ""), shown.get(s, [])) for s in studies),
        _colophon(results, _configuration(directory, results)),
    ]
    path = directory / "report.html"
    write_atomically(path, page(title, "".join(body)))
    return path


def page(title: str, body: str) -> str:
    """A whole document around `body` (markup)."""
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n"
        f"<body><main>{body}</main></body></html>\n"
    )


def claims_table(results: dict, links: bool = False) -> str:
    """All claims of a run: verdict, sentence, the paper's number where it has one, ours, band."""
    rows = []
    papers = any(_format.paper_value(claim) for claim in results["claims"])
    for claim in results["claims"]:
        core = "Core: " if claim.get("kind") == "core" else ""
        statement = escape(core + claim["statement"])
        if links:
            statement = f'<a href="#study-{escape(_study(claim))}">{statement}</a>'
        value, rest = _value(claim)
        rows.append(
            f"<tr><td>{_verdict(claim['verdict'])}</td>"
            f'<td>{statement} <span class="source">{escape(claim["source"])}</span></td>'
            f"{_paper_cell(claim) if papers else ''}"
            f'<td class="number" data-label="Ours">{value} {rest}</td>'
            f'<td class="number" data-label="Band">{escape(_format.band(claim))}</td></tr>'
        )
    return (
        '<table class="claims"><thead><tr><th>Verdict</th><th>Claim</th>'
        f"{'<th>Paper</th>' if papers else ''}<th>Ours</th>"
        f"<th>Band</th></tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _paper_cell(claim: dict) -> str:
    value = escape(_format.paper_value(claim)) or "–"
    return f'<td class="number" data-label="Paper">{value}</td>'


def data_table(rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """Any rows as a table; columns are the union of their keys, numbers stand right."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if not columns:
        return ""
    # "right" also for a column of numbers with gaps, not for one of words with a number in it.
    kinds = {c: {_is_number(r[c]) for r in rows if r.get(c) is not None} for c in columns}
    sides = {c: ' class="right"' if kinds[c] == {True} else "" for c in columns}
    head = "".join(f"<th{sides[c]}>{escape(_words(c))}</th>" for c in columns)
    lines = [
        "<tr>" + "".join(f"<td{sides[c]}>{escape(_cell(row, c))}</td>" for c in columns) + "</tr>"
        for row in rows
    ]
    title = f"<caption>{escape(caption)}</caption>" if caption else ""
    table = (
        f'<div class="scroll"><table class="data">{title}<thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )
    if len(rows) <= _MANY_ROWS:
        return table
    name = escape(caption or "Table")
    return f"<details><summary>{name}: {len(rows)} rows</summary>{table}</details>"


def _header(results: dict, title: str, paper: str, abstract: str, link: str) -> str:
    eyebrow = (
        f"Reproduction report · <code>{escape(results['experiment'])}</code> · "
        f"{escape(results['preset'])} preset · seed {escape(str(results['seed']))}"
    )
    cited = escape(paper)
    if link.startswith("https://"):
        cited += f' · <a href="{escape(link)}">read the paper</a>'
    claimed = f"<p>{escape(abstract)}</p>" if abstract else ""
    count = _format.counts(results)
    chips = "".join(f"<li>{_verdict(v, f'{n} {v}')}</li>" for v, n in count.items() if n)
    return (
        f'<header><p class="eyebrow">{eyebrow}</p><h1>{escape(title)}</h1>'
        f'<p class="muted">{cited}</p>{claimed}<p class="lead">{escape(_summary(results))}</p>'
        f'<ul class="chips">{chips}</ul></header>'
    )


def _summary(results: dict) -> str:
    """The paragraph for someone who reads one paragraph."""
    count = _format.counts(results)
    total = len(results["claims"])
    if not total:
        return "This run makes no claims."
    judged = total - count["not run"]
    text = f"{count['reproduced']} of {total} claims reproduced."
    if count["not reproduced"]:
        text += f" {count['not reproduced']} did not."
    if count["inconclusive"]:
        text += f" {count['inconclusive']} inconclusive (across an end of its band, or not finite)."
    if count["not run"]:
        text += f" {count['not run']} not run."
    if judged:
        text += (
            " Each band was fixed before the run; a claim is reproduced only if the whole 95% "
            "interval of its measurement lies inside."
        )
    return f"{text} Cost: {_format.cost(results)}."


def _section(results: dict, study: str, question: str, figures: Sequence[str]) -> str:
    record = results.get("studies", {}).get(study)
    claims = [claim for claim in results["claims"] if _study(claim) == study]
    parts = [f"<h2>{escape(_words(study))}</h2>"]
    if question:
        parts.append(f'<p class="question">{escape(question)}</p>')
    if record is None:
        parts.append('<p class="muted">This study was not run.</p>')
    parts += figures
    parts += [_claim(claim) for claim in claims]
    for name, rows in results.get("tables", {}).get(study, {}).items():
        parts.append(data_table(rows, _words(name)))
    if record and record["notes"]:
        notes = "".join(f"<li>{escape(note)}</li>" for note in record["notes"])
        parts.append(f'<h3>Notes</h3><ul class="notes">{notes}</ul>')
    if record:
        took = _format.duration(record["seconds"])
        parts.append(f'<p class="source">Took {took}. <a href="#claims">All claims</a></p>')
    return f'<section id="study-{escape(study)}">{"".join(parts)}</section>'


def _claim(claim: dict) -> str:
    """A claim with its interval drawn against its band."""
    facts = [claim["source"], f"band {_format.band(claim)}"]
    for key, noun in (("n_seeds", "seed"), ("n_tasks", "task")):
        if claim.get(key):
            facts.append(f"{claim[key]:,} {noun}{'' if claim[key] == 1 else 's'}")
    value, rest = _value(claim)
    note = f'<p class="source">{escape(claim["note"])}</p>' if claim.get("note") else ""
    plot = "" if claim["verdict"] == "not run" else _plot.interval_svg(claim)
    return (
        f'<div class="claim"><div>{_verdict(claim["verdict"])}<p>{escape(claim["statement"])}</p>'
        f'<p class="source">{escape(" · ".join(filter(None, facts)))}</p>{note}</div>'
        f'<div><span class="value">{value}</span> {rest}{plot}</div></div>'
    )


def _value(claim: dict) -> tuple[str, str]:
    """(number, unit and interval) as markup."""
    if claim["verdict"] == "not run":
        return "–", ""
    value, ends = _format.measured(claim)
    unit = f'<span class="unit">{escape(claim["unit"])}</span>' if claim["unit"] else ""
    interval = f' <span class="interval">95%: {escape(ends)}</span>' if ends else ""
    return escape(value), unit + interval


def _verdict(verdict: str, text: str = "") -> str:
    """Colour, symbol and word: never colour alone."""
    kind = verdict.replace(" ", "-")
    symbol = _format.SYMBOLS.get(verdict, "–")
    return f'<span class="verdict {escape(kind)}">{symbol} {escape(text or verdict)}</span>'


def _figure(directory: Path, name: str, caption: str) -> str:
    path = directory / "figures" / f"{name}.svg"
    if not path.exists() or path.stat().st_size > _LARGEST_SVG:
        path = path.with_suffix(".png")
    if not path.exists():
        return f'<p class="muted">Figure “{escape(name)}” is missing from this run.</p>'
    # As an image, not inline: ids in several SVGs on one page would clash.
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    data = base64.b64encode(read_bytes(path)).decode()
    return (
        f'<figure><img alt="{escape(caption)}" src="data:image/{kind};base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _colophon(results: dict, configuration: Mapping[str, Any]) -> str:
    rows = [
        {"field": name, "value": value if isinstance(value, str) else json.dumps(value)}
        for name, value in _flat(configuration).items()
    ]
    machine = results.get("machine") or {}
    facts = {"cost": _format.cost(results), "commit": _format.commit(results)}
    facts |= {name: str(value) for name, value in machine.items()}
    facts |= {str(name): str(value) for name, value in (results.get("versions") or {}).items()}
    run = [{"what": name, "value": value} for name, value in facts.items()]
    return (
        '<section id="configuration"><h2>Configuration and cost</h2>'
        f"{data_table(run)}{data_table(rows, 'Configuration')}</section>"
    )


def _configuration(directory: Path, results: dict) -> Mapping[str, Any]:
    """config.json of the run, or what results.json says if it is missing or damaged."""
    try:
        held = read_json(directory / "config.json")
    except (OSError, ValueError):
        held = results
    inner = held.get("config", held)
    return inner if isinstance(inner, dict) else {}


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for name, value in tree.items():
        if isinstance(value, Mapping) and value:
            leaves |= _flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def _study(claim: dict) -> str:
    return claim["id"].split(".")[0]


def _cell(row: Mapping[str, Any], column: str) -> str:
    return _format.cell(row[column]) if column in row else ""


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _words(name: str) -> str:
    """The name "one_layer" as a heading: "One layer"."""
    text = str(name).replace("_", " ").strip()
    return text[:1].upper() + text[1:]
