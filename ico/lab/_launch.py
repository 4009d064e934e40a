"""The command line of every experiment.

    python -m experiments.<name> [--preset smoke|cpu|paper] [--out DIR] [--seed N] [--resume]
                                 [--studies a,b] [--<field> VALUE]

Each study is run, saved, measured and entered in `results.json` before the next one starts, so
whatever stops a run, the finished studies stay. Figures and the report are drawn from what is
saved, when the run ends or is stopped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import jax

from ico import report, train
from ico.lab import _command_line, _run_folder
from ico.lab._command_line import Request
from ico.lab._errors import InputError
from ico.lab._output import print_what_fits
from ico.lab._paper import Paper, Study
from ico.lab._run import Run
from ico.report import Missing, StudyResult

_SYMBOLS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}


class _Terminated(KeyboardInterrupt):
    """SIGTERM outside the training loop, which has its own way to stop."""


def launch(paper: Paper, argv: Sequence[str] | None = None) -> int:
    """Runs an experiment as its command line asks and returns the exit status.

    Returns:
      0 when it ran, whatever the verdicts; 2 for bad input; 128 + signal when interrupted.
    """
    own = argv is None  # then the process ends with this call, and may ignore signals from now on
    print_what_fits()
    try:
        status = _launch(paper, list(sys.argv[1:] if own else argv))
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except KeyboardInterrupt:  # once more, while the run was being stopped
        with _ignoring_ctrl_c(forever=own):
            print("stopped by SIGINT; the same command with --resume goes on", file=sys.stderr)
        return 128 + signal.SIGINT
    if own and status > 128:
        with _ignoring_ctrl_c(forever=True):
            pass
    return status


def _launch(paper: Paper, argv: list[str]) -> int:
    try:
        request = _command_line.parse(paper, argv)
        _run_folder.check(paper, request)
        if _is_finished(paper, request):
            print(f"{request.directory} already holds this run, finished.")
            _print_verdicts(request)
            return 0
        _ask_for_resume(request)
        _print_first_line(paper, request)
        with _run_folder.claim(paper, request), _sigterm_raises():
            return _run(paper, request)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _is_finished(paper: Paper, request: Request) -> bool:
    """Whether every chosen study is in the folder, with results and report."""

    if not (request.directory / "report.html").exists():
        return False
    if set(_run_folder.unfinished_studies(request.directory)) & set(request.studies):
        return False
    try:
        report.read_results(request.directory)
    except ValueError:
        return False
    saved = _saved_studies(paper, request.directory)
    if not set(request.studies) <= saved:
        return False
    # Claims and figures may have been mended since: then they are measured and drawn anew.
    return all(_is_measured(paper, request.directory, study) for study in saved)


def _saved_studies(paper: Paper, directory: Any) -> set[str]:
    loaded = {study: report.load_study(directory, study) for study in paper.studies}
    return {study for study, result in loaded.items() if result is not None}


def _ask_for_resume(request: Request) -> None:
    left = _run_folder.unfinished_studies(request.directory)
    if left and not request.resume and _run_folder.holds_anything(request.directory):
        raise InputError(
            "out",
            f"{request.directory} holds an unfinished run (to do: {', '.join(left)}); "
            "add --resume to go on, or choose another --out",
        )


def _print_first_line(paper: Paper, request: Request) -> None:
    verb = "goes on with" if request.resume and request.directory.exists() else "runs"
    some = "" if len(request.studies) == len(paper.studies) else " (all studies)"
    cost = paper.cost[request.preset]
    cost = f"takes {cost}{some}; " if cost else ""
    print(
        f"{paper.name}, preset {request.preset}, seed {request.seed}: {verb} "
        f"{len(request.studies)} of {len(paper.studies)} studies "
        f"({', '.join(request.studies)}); {cost}writes to {request.directory}",
        flush=True,
    )


def _run(paper: Paper, request: Request) -> int:
    """Runs the studies that are missing, then writes the report of whatever there is."""

    started = time.perf_counter()
    saved = _saved_studies(paper, request.directory)
    try:
        train.enable_compilation_cache()
        if request.preset == "smoke":
            # A smoke run is nearly all compilation, and its numbers say nothing.
            train.compile_quickly()
        _run_studies(paper, request, saved)
        _write_report(paper, request, saved)
        left = set(_run_folder.unfinished_studies(request.directory)) - set(request.studies)
        _run_folder.mark_unfinished(request.directory, sorted(left))
    except train.Interrupted as stop:
        return _stopped(paper, request, saved, signal.Signals[stop.signal])
    except _Terminated:
        return _stopped(paper, request, saved, signal.SIGTERM)
    except KeyboardInterrupt:
        return _stopped(paper, request, saved, signal.SIGINT)
    except OSError as error:
        full = _run_folder.storage_error(error.filename or request.directory, error)
        if full is None:
            _crashed(paper, request, saved)
            raise
        raise full from error
    except (InputError, train.TrainingError) as error:
        _try_to_report(paper, request, saved)
        if isinstance(error, InputError):  # bad input found late, or models that diverged
            raise
        raise InputError(type(error).__name__, " ".join(str(error).split())) from error
    except Exception:
        _crashed(paper, request, saved)
        raise
    print(f"done in {time.perf_counter() - started:.0f} s")
    _print_verdicts(request)
    return 0


def _run_studies(paper: Paper, request: Request, saved: set[str]) -> None:
    """Runs what is missing, and adds each study to `saved` as soon as it is on disk."""

    diverged: list[str] = []
    directory = request.directory
    waiting = {*request.studies, *_run_folder.unfinished_studies(directory)}
    waiting = [study for study in paper.studies if study in waiting]
    # They stay marked until the report is written: a run killed before that is unfinished.
    _run_folder.mark_unfinished(directory, waiting)

    run = Run(
        request.config,
        directory.resolve(),
        request.seed,
        request.preset,
        sys.stderr.isatty(),
        paper.file.parent,
        _commit=paper.commit,
    )
    for study in [name for name in paper.studies if name in saved]:
        if not _is_measured(paper, directory, study):
            print(f"{study}: measured anew, since the code of its claims is another", flush=True)
            _measure(paper.studies[study], report.load_study(directory, study), directory)
    for number, study in enumerate(request.studies, start=1):
        place = f"[{number}/{len(request.studies)}] {study}"
        if study in saved:
            print(f"{place}: already done", flush=True)
            continue
        try:
            seconds = _run_study(paper.studies[study], run)
        except train.NonFiniteLoss as error:
            # One model that diverged must not take the other studies' verdicts with it.
            diverged.append(f"{study}: {' '.join(str(error).split())}")
            print(f"{place}: diverged", flush=True)
            continue
        saved.add(study)
        _write_results(paper, request, saved)
        print(f"{place}: {seconds:.1f} s", flush=True)
    if diverged:
        raise InputError("NonFiniteLoss", "; ".join(diverged))


def _run_study(study: Study, run: Run) -> float:
    """Runs a study; its records are on disk before anything is measured on them."""
    started = time.perf_counter()
    records = study(run)
    seconds = time.perf_counter() - started
    notes = list(records.notes)
    result = StudyResult(records, None, {}, notes, seconds, run.commit)
    report.save_study(run.directory, study.name, result)
    _measure(study, result, run.directory)
    return time.perf_counter() - started


def _measure(study: Study, result: Any, directory: Any) -> None:
    claims, tables = study.measure(result.records), study.tabulate(result.records)
    measured = dataclasses.replace(result, claims=claims, tables=tables, code=study.paper.code)
    report.save_study(directory, study.name, measured)


def _is_measured(paper: Paper, directory: Any, study: str) -> bool:
    """Whether a saved study has been measured by the code of today."""
    result = report.load_study(directory, study)
    return result is not None and result.claims is not None and result.code == paper.code


def _write_results(paper: Paper, request: Request, saved: set[str]) -> None:
    """Enters every saved study in results.json, those of earlier calls too."""

    devices = jax.devices()
    kind = devices[0].device_kind

    report.write_results(
        request.directory,
        experiment=paper.name,
        preset=request.preset,
        seed=request.seed,
        claims=paper.claims,
        studies=[study for study in paper.studies if study in saved],
        config=_run_folder.config_dict(request.config),
        device=kind if len(devices) == 1 else f"{len(devices)} x {kind}",
        git=paper.commit,
    )


def _write_report(paper: Paper, request: Request, saved: set[str]) -> None:
    _write_results(paper, request, saved)
    report.write_html(
        request.directory,
        title=paper.title,
        questions={name: study.question for name, study in paper.studies.items()},
        abstract=paper.shows,
        link=f"https://arxiv.org/abs/{paper.arxiv}" if paper.arxiv else "",
        paper=paper.citation,
        figures=draw(paper, request.directory),
    )


def draw(paper: Paper, directory: Any) -> list[tuple[str, str, str]]:
    """Draws the figures of all studies saved in a run folder, into DIR/figures.

    Returns:
      (study, figure name, caption) of each that was drawn, in the order of showing.
    """
    drawn = []
    for study in paper.studies.values():
        result = report.load_study(directory, study.name)
        for figure in study.figures if result is not None else ():
            with report.style():
                try:
                    fig = figure.draw(result.records)
                except Missing as absent:  # the run left out what it shows
                    print(f"figure {figure.name} is left out: {absent}")
                    continue
                if fig is not None:
                    report.save_figure(fig, directory, figure.name)
                    drawn.append((study.name, figure.name, figure.caption))
    return drawn


def _try_to_report(paper: Paper, request: Request, saved: set[str]) -> None:
    """A report of the finished studies after a stop; what stopped the run matters more than it."""
    if not saved:
        return
    try:
        _write_report(paper, request, saved)
    except Exception as error:
        print(f"the report could not be written: {error!r}", file=sys.stderr)


def _crashed(paper: Paper, request: Request, saved: set[str]) -> None:
    """Says, above the traceback, that not all is lost."""
    _try_to_report(paper, request, saved)
    print(
        f"{paper.name} crashed; finished studies are kept in {request.directory}. "
        f"To go on: {request.resume_command}",
        file=sys.stderr,
    )


def _stopped(paper: Paper, request: Request, saved: set[str], number: int) -> int:
    """Says how to go on, and returns the exit status of a process stopped by that signal."""
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C gives up the report alone
        _try_to_report(paper, request, saved)
    name = signal.Signals(number).name
    with _ignoring_ctrl_c():
        print(f"stopped by {name}. To go on: {request.resume_command}", file=sys.stderr)
    return 128 + number


@contextlib.contextmanager
def _ignoring_ctrl_c(forever: bool = False) -> Iterator[None]:
    """Ctrl-C does nothing in the block, and afterwards if `forever`: Python is shutting down."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        if not forever:
            signal.signal(signal.SIGINT, signal.SIG_DFL if before is None else before)


@contextlib.contextmanager
def _sigterm_raises() -> Iterator[None]:
    """SIGTERM unwinds like Ctrl-C, so that what is finished gets its report."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signal handlers belong to the main thread
        return

    def handler(number: int, frame: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _print_verdicts(request: Request) -> None:
    """One line a claim, then the path of the report; read from disk, as any reader would."""

    if request.preset == "smoke":
        print("a smoke run tries every line of code; its verdicts mean nothing:")
    claims = report.read_results(request.directory)["claims"]
    for claim in claims:
        if claim["verdict"] != "not run":
            print(_verdict_line(claim))
    left = sum(claim["verdict"] == "not run" for claim in claims)
    if left:
        print(f"- {left} claims of studies that were not run")
    print(f"report: {request.directory / 'report.html'}")


def _verdict_line(claim: dict[str, Any]) -> str:
    symbol = _SYMBOLS.get(claim["verdict"], "-")
    if claim["measured"] is None:
        why = f" ({claim['note']})" if claim.get("note") else ""
        return f"{symbol} {claim['id']}: {claim['verdict']}{why}"
    unit = f" {claim['unit']}" if claim["unit"] else ""
    interval = claim["ci95"]
    known = interval is not None and None not in interval
    spread = f" [{interval[0]:.4g}, {interval[1]:.4g}]" if known else ""
    return (
        f"{symbol} {claim['id']}: {claim['measured']:.4g}{unit}{spread}, "
        f"band {_band(*claim['band'])}: {claim['verdict']}"
    )


def _band(low: int | float | None, high: int | float | None) -> str:
    if high is None:
        return f"at least {low:.4g}"
    return f"at most {high:.4g}" if low is None else f"{low:.4g} to {high:.4g}"
