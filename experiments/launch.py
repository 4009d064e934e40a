"""The command line of every experiment.

    python -m experiments.<name> [--preset smoke|cpu|paper] [--out DIR] [--seed N] [--resume]
                                 [--studies a,b] [--<field> VALUE]

An experiment is made of named studies. Each is run, saved and entered in `results.json` before the
next one starts, so whatever stops a run, the finished studies stay. Figures and the report are
drawn from what is saved, when the run ends or is stopped.

A package `experiments/<name>/` brings

- `config.py`: `EXPERIMENT`, an `Experiment`; imports no jax;
- `run.py`: `STUDIES`, a mapping from study name to `study(context) -> ico.report.StudyResult`;
- `figures.py`: `draw(directory) -> [(study, figure name, caption), ...]`; reads saved studies;
- `__main__.py`: `raise SystemExit(launch(EXPERIMENT))`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments import _command_line, _run_folder
from experiments._command_line import Request
from experiments._experiment import Context, Experiment, InputError

__all__ = ["Context", "Experiment", "InputError", "launch"]

_SYMBOLS = {"reproduced": "✓", "not reproduced": "✗", "inconclusive": "?"}


class _Terminated(KeyboardInterrupt):
    """SIGTERM outside the training loop, which has its own way to stop."""


def launch(experiment: Experiment, argv: Sequence[str] | None = None) -> int:
    """Runs an experiment as its command line asks and returns the exit status.

    Returns:
      0 when it ran, whatever the verdicts; 2 for bad input; 128 + signal when interrupted.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        return _launch(experiment, argv)
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _launch(experiment: Experiment, argv: list[str]) -> int:
    try:
        request = _command_line.parse(experiment, argv)
        _run_folder.check(experiment, request)
        if _is_finished(experiment, request):
            print(f"{request.directory} already holds this run, finished.")
            _print_verdicts(request)
            return 0
        _ask_for_resume(request)
        _print_first_line(experiment, request)
        with _run_folder.claim(experiment, request), _sigterm_raises():
            return _run(experiment, request)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _is_finished(experiment: Experiment, request: Request) -> bool:
    """Whether every chosen study is in the folder, with results and report."""
    from ico import report

    if not (request.directory / "report.html").exists():
        return False
    if set(_run_folder.unfinished_studies(request.directory)) & set(request.studies):
        return False
    try:
        report.read_results(request.directory)
    except ValueError:
        return False
    return set(request.studies) <= _saved_studies(experiment, request.directory)


def _saved_studies(experiment: Experiment, directory: Path) -> set[str]:
    from ico import report

    loaded = {study: report.load_study(directory, study) for study in experiment.studies}
    return {study for study, result in loaded.items() if result is not None}


def _ask_for_resume(request: Request) -> None:
    left = _run_folder.unfinished_studies(request.directory)
    if left and not request.resume and _run_folder.holds_anything(request.directory):
        raise InputError(
            "out",
            f"{request.directory} holds an unfinished run (to do: {', '.join(left)}); "
            "add --resume to go on, or choose another --out",
        )


def _print_first_line(experiment: Experiment, request: Request) -> None:
    verb = "goes on with" if request.resume and request.directory.exists() else "runs"
    some = "" if len(request.studies) == len(experiment.studies) else " (all studies)"
    print(
        f"{experiment.name}, preset {request.preset}, seed {request.seed}: {verb} "
        f"{len(request.studies)} of {len(experiment.studies)} studies "
        f"({', '.join(request.studies)}); takes {experiment.cost[request.preset]}{some}; "
        f"writes to {request.directory}",
        flush=True,
    )


def _run(experiment: Experiment, request: Request) -> int:
    """Runs the studies that are missing, then writes the report of whatever there is."""
    from ico import train

    started = time.perf_counter()
    saved = _saved_studies(experiment, request.directory)
    try:
        train.enable_compilation_cache()
        if request.preset == "smoke":
            # A smoke run is nearly all compilation, and its numbers say nothing.
            train.compile_quickly()
        _run_studies(experiment, request, saved)
        _write_report(experiment, request, saved)
        left = set(_run_folder.unfinished_studies(request.directory)) - set(request.studies)
        _run_folder.mark_unfinished(request.directory, sorted(left))
    except train.Interrupted as stop:
        return _stopped(experiment, request, saved, signal.Signals[stop.signal])
    except _Terminated:
        return _stopped(experiment, request, saved, signal.SIGTERM)
    except KeyboardInterrupt:
        return _stopped(experiment, request, saved, signal.SIGINT)
    except OSError as error:
        full = _run_folder.storage_error(error.filename or request.directory, error)
        if full is None:
            _crashed(experiment, request, saved)
            raise
        raise full from error
    except (InputError, train.TrainingError) as error:
        _try_to_report(experiment, request, saved)
        if isinstance(error, InputError):  # bad input found late, or models that diverged
            raise
        raise InputError(type(error).__name__, " ".join(str(error).split())) from error
    except Exception:
        _crashed(experiment, request, saved)
        raise
    print(f"done in {time.perf_counter() - started:.0f} s")
    _print_verdicts(request)
    return 0


def _run_studies(experiment: Experiment, request: Request, saved: set[str]) -> None:
    """Runs what is missing, and adds each study to `saved` as soon as it is on disk."""
    from ico import train

    diverged: list[str] = []
    directory = request.directory
    waiting = {*request.studies, *_run_folder.unfinished_studies(directory)}
    waiting = [study for study in experiment.studies if study in waiting]
    # They stay marked until the report is written: a run killed before that is unfinished.
    _run_folder.mark_unfinished(directory, waiting)

    studies = importlib.import_module(f"{experiment.package}.run").STUDIES
    context = Context(
        config=request.config,
        directory=directory.resolve(),
        seed=request.seed,
        preset=request.preset,
        progress=sys.stderr.isatty(),
    )
    for number, study in enumerate(request.studies, start=1):
        place = f"[{number}/{len(request.studies)}] {study}"
        if study in saved:
            print(f"{place}: already done", flush=True)
            continue
        try:
            seconds = _run_study(studies[study], context, study)
        except train.NonFiniteLoss as error:
            # One model that diverged must not take the other studies' verdicts with it.
            diverged.append(f"{study}: {' '.join(str(error).split())}")
            print(f"{place}: diverged", flush=True)
            continue
        saved.add(study)
        _write_results(experiment, request, saved)
        print(f"{place}: {seconds:.1f} s", flush=True)
    if diverged:
        raise InputError("NonFiniteLoss", "; ".join(diverged))


def _run_study(function: Any, context: Context, study: str) -> float:
    import jax

    from ico import report

    started = time.perf_counter()
    # Accelerators round the operands of matrix products by default, which breaks 1e-4.
    with jax.default_matmul_precision("highest"):
        result = function(context)
    seconds = time.perf_counter() - started
    report.save_study(context.directory, study, dataclasses.replace(result, seconds=seconds))
    return seconds


def _write_results(experiment: Experiment, request: Request, saved: set[str]) -> None:
    """Enters every saved study in results.json, those of earlier calls too."""
    import jax

    from ico import report

    devices = jax.devices()
    kind = devices[0].device_kind

    report.write_results(
        request.directory,
        experiment=experiment.name,
        preset=request.preset,
        seed=request.seed,
        claims=experiment.claims,
        studies=[study for study in experiment.studies if study in saved],
        config=_run_folder.config_dict(request.config),
        device=kind if len(devices) == 1 else f"{len(devices)} x {kind}",
    )


def _write_report(experiment: Experiment, request: Request, saved: set[str]) -> None:
    from ico import report

    _write_results(experiment, request, saved)
    figures = importlib.import_module(f"{experiment.package}.figures").draw(request.directory)
    report.write_html(
        request.directory,
        title=experiment.title,
        questions=experiment.studies,
        abstract=experiment.shows,
        link=f"https://arxiv.org/abs/{experiment.arxiv}",
        paper=f"{experiment.authors} ({experiment.year}), arXiv:{experiment.arxiv}",
        figures=figures,
    )


def _try_to_report(experiment: Experiment, request: Request, saved: set[str]) -> None:
    """A report of the finished studies after a stop; what stopped the run matters more than it."""
    if not saved:
        return
    try:
        _write_report(experiment, request, saved)
    except Exception as error:
        print(f"the report could not be written: {error!r}", file=sys.stderr)


def _crashed(experiment: Experiment, request: Request, saved: set[str]) -> None:
    """Says, above the traceback, that not all is lost."""
    _try_to_report(experiment, request, saved)
    print(
        f"{experiment.name} crashed; finished studies are kept in {request.directory}. "
        f"To go on: {request.resume_command}",
        file=sys.stderr,
    )


def _stopped(experiment: Experiment, request: Request, saved: set[str], number: int) -> int:
    """Says how to go on, and returns the exit status of a process stopped by that signal."""
    with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C gives up the report alone
        _try_to_report(experiment, request, saved)
    name = signal.Signals(number).name
    print(f"stopped by {name}. To go on: {request.resume_command}", file=sys.stderr)
    return 128 + number


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
    from ico import report

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


def _band(low: float | None, high: float | None) -> str:
    if high is None:
        return f"at least {low:.4g}"
    return f"at most {high:.4g}" if low is None else f"{low:.4g} to {high:.4g}"
