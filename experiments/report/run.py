"""The reproduction table over many runs, and the publishing of one.

    python -m experiments.report runs/*/cpu-0                            # Markdown on stdout
    python -m experiments.report runs/*/cpu-0 --html table.html
    python -m experiments.report runs/gd_in_context/cpu-0 --readme gd_in_context
    python -m experiments.report --refresh

Publishing copies the run's results.json to experiments/<name>/ and rewrites the tables between
`<!-- results:<name> -->` and `<!-- /results:<name> -->` in experiments/<name>/README.md and, if it
has them, in README.md, where `<!-- results:summary -->` gets one row a published paper. So no
number in a README is typed.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments._discovery import discover
from ico import report
from ico.files import read_text, write_atomically
from ico.lab import Paper, print_what_fits

_ROOT = Path(__file__).resolve().parents[2]


def main(argv: Sequence[str], root: Path = _ROOT, known: Mapping[str, Paper] | None = None) -> int:
    """Prints or writes what the command line asks for.

    Args:
      argv: without the program's name.
      root: of the repository that is published into.
      known: the experiments that a published run is checked against; by default all there are.

    Returns:
      Exit status: 0, or 2 for bad input, with one line an error on stderr.
    """
    print_what_fits()
    arguments = _parser().parse_args(argv)
    if not arguments.directories and not arguments.refresh:
        print("error: DIR: none given; name the folders of runs", file=sys.stderr)
        return 2
    runs, errors = _read(arguments.directories)
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    try:
        if arguments.refresh:
            for path in refresh(root, discover()[0] if known is None else known):
                print(f"wrote {path}")
        elif arguments.readme:
            if errors:
                return 2
            if len(runs) != 1:
                raise ValueError(f"--readme publishes one run, not {len(runs)}")
            declared = (discover()[0] if known is None else known).get(arguments.readme)
            if declared is None:
                raise ValueError(f"--readme {arguments.readme}: there is no such experiment")
            check_whole(runs[0], declared)
            for path in publish(runs[0], arguments.readme, root):
                print(f"wrote {path}")
        elif runs:
            _show(runs, arguments.html, arguments.markdown)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 2 if errors else 0


def publish(results: dict, experiment: str, root: Path) -> list[Path]:
    """Makes a run the published one of its experiment; everything is checked before any write.

    Args:
      results: of the run, as `ico.report.read_results` gives them.
      experiment: the name it is to be published under, which must be the run's own.
      root: of the repository.

    Returns:
      The files written, changed or not.

    Raises:
      ValueError: another experiment's run, a smoke run, or a README without its markers.
      OSError: a README is missing or cannot be written.
    """
    if results["experiment"] != experiment:
        raise ValueError(f"--readme {experiment}: this is a run of {results['experiment']}")
    if results["preset"] == "smoke":
        raise ValueError("--readme: a smoke run measures nothing; publish a cpu or paper run")
    target = _place(root, experiment)[0]
    others = {path: report.read_results(path) for path in _published(root) if path != target}
    return _write(others | {target: results}, [experiment], root)


def refresh(root: Path, known: Mapping[str, Paper]) -> list[Path]:
    """Brings the published results' labels and all READMEs in step with the declared claims.

    Statement, source, kind and the paper's number of a claim are labels, and may be mended after a
    run. Bands and what was measured never change here.

    Raises:
      ValueError: published results whose claims or bands are not those declared.
    """
    runs = {path: report.read_results(path) for path in _published(root)}
    for path, results in runs.items():
        paper = known.get(results["experiment"])
        if paper is None:
            continue
        declared = {claim.id: claim for claim in paper.claims}
        entries = {entry["id"]: entry for entry in results["claims"]}
        if set(declared) != set(entries):
            raise ValueError(f"{path}: its claims are not those of {paper.name}; run it again")
        results["claims"] = [entries[name] for name in declared]
        for name, claim in declared.items():
            entry = entries[name]
            if list(claim.band) != entry["band"]:
                raise ValueError(f"{path}: the band of {claim.id} has changed; run it again")
            entry |= {"statement": claim.statement, "source": claim.source}
            entry |= {"kind": claim.kind, "paper_value": claim.paper_value}
    return _write(runs, [results["experiment"] for results in runs.values()], root)


def _write(runs: Mapping[Path, dict], changed: Sequence[str], root: Path) -> list[Path]:
    """Writes results and README sections of some experiments, and the summary of all."""
    home, sections, files = root / "README.md", [], {}
    for path, results in runs.items():
        name = results["experiment"]
        if name not in changed:
            continue
        text, marker = report.claims_markdown(results), f"results:{name}"
        sections.append((_place(root, name)[1], marker, text))
        if _has(home, marker):
            sections.append((home, marker, text))
        files[path] = json.dumps(results, indent=1, allow_nan=False) + "\n"
    if _has(home, "results:summary"):
        everything = sorted(runs.values(), key=lambda run: run["experiment"])
        sections.append((home, "results:summary", report.summary_markdown(everything)))
    for path, marker, text in sections:
        report.replace_between_markers(path, marker, text, write=False)
    for path, text in files.items():
        write_atomically(path, text)
    for path, marker, text in sections:
        report.replace_between_markers(path, marker, text)
    return list(dict.fromkeys([*files, *(path for path, _, _ in sections)]))


def _place(root: Path, name: str) -> tuple[Path, Path]:
    """Published results and README of an experiment; small systems share a README."""
    folder = root / "experiments" / name
    if folder.is_dir():
        return folder / "results.json", folder / "README.md"
    systems = root / "experiments" / "systems"
    return systems / "results" / f"{name}.json", systems / "README.md"


def _published(root: Path) -> list[Path]:
    papers = root.glob("experiments/*/results.json")
    return sorted([*papers, *root.glob("experiments/systems/results/*.json")])


def check_whole(results: dict, paper: Paper) -> None:
    """Checks that a run may be published as the experiment's.

    Raises:
      ValueError: another preset's settings, a part of the studies, or code that is no commit.
    """
    if results["preset"] not in paper.presets:
        raise ValueError(f"--readme: there is no preset {results['preset']!r}")
    settings = json.loads(json.dumps(dataclasses.asdict(paper.presets[results["preset"]])))
    found = results.get("config", {})
    changed = [key for key, value in settings.items() if found.get(key) != value]
    if changed or set(found) - set(settings):
        raise ValueError(f"--readme: not the {results['preset']} preset; differs in {changed}")
    wanted, found = [c.id for c in paper.claims], [c["id"] for c in results["claims"]]
    left = [c["id"] for c in results["claims"] if c["verdict"] == "not run"]
    if wanted != found or left:
        raise ValueError(f"--readme: not every claim was measured: {left or 'other claims'}")
    bands = {claim["id"]: claim["band"] for claim in results["claims"]}
    if moved := [c.id for c in paper.claims if list(c.band) != bands[c.id]]:
        raise ValueError(f"--readme: judged by other bands than those declared: {moved}")
    commits = [
        results.get("git", ""),
        *results.get("artifact_commits", []),
        *(study.get("git", "") for study in results.get("studies", {}).values()),
    ]
    if not commits[0] or any(c.endswith("-dirty") or c == "unknown" for c in commits):
        raise ValueError(
            "--readme: the code of this run, or of something that it keeps, is not a commit; run "
            f"it from a clean one into a new folder ({', '.join(sorted(set(map(str, commits))))})"
        )


def _show(runs: list[dict], page: Path | None, text: Path | None) -> None:
    table = report.reproduction_table(runs)
    print(table, end="")
    if text:
        write_atomically(text, table)
    if page:
        write_atomically(page, report.reproduction_table(runs, format="html"))


def _read(directories: Sequence[Path]) -> tuple[list[dict], list[str]]:
    """The results of every run that has some, and one line for every one that has not."""
    runs, errors = [], []
    for directory in directories:
        try:
            runs.append(report.read_results(directory))
        except ValueError as error:
            errors.append(" ".join(str(error).split()))
    return runs, errors


def _has(path: Path, marker: str) -> bool:
    return path.exists() and f"<!-- {marker} -->" in read_text(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.report",
        description="Prints the reproduction table over many runs as Markdown.",
    )
    parser.add_argument("directories", nargs="*", type=Path, metavar="DIR", help="a run folder")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write it as a page too")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write it as Markdown too")
    parser.add_argument(
        "--readme",
        metavar="EXPERIMENT",
        help="publish the run: copy its results.json and rewrite the tables in the READMEs",
    )
    parser.add_argument(
        "--refresh",
        action="store_true",
        help="bring labels of published claims and all READMEs in step with the declarations",
    )
    return parser
