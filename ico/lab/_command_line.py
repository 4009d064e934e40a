"""From argv to a validated request, with one line of error for whatever is wrong with it."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import io
import itertools
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ico.lab._config import validate
from ico.lab._errors import InputError
from ico.lab._paper import COMMON_FLAGS, Paper


@dataclass(frozen=True)
class Request:
    """What the command line asked for."""

    preset: str
    seed: int
    directory: Path
    resume: bool
    studies: tuple[str, ...]
    config: Any
    resume_command: str


def parse(paper: Paper, argv: Sequence[str]) -> Request:
    """Reads argv; raises InputError, or SystemExit(0) after printing --help."""
    preset = _preset(paper, argv)
    run, config = _tyro(paper, preset, argv)
    if run.seed < 0:
        raise InputError("seed", f"{run.seed} is negative; give 0 or more")
    if run.seed >= 2**32:  # jax takes seeds modulo 2^32: two such runs would be one
        raise InputError("seed", f"{run.seed} is too large; give less than 2^32")
    _validate(config)
    if run.out is not None and not run.out.strip():  # such as an unset variable of the shell
        raise InputError("out", "is empty; name a folder, or leave the flag out")
    directory = run.out or _default_out(paper, preset, run.seed)
    return Request(
        preset=preset,
        seed=run.seed,
        directory=Path(directory),
        resume=run.resume,
        studies=_studies(paper, run.studies),
        config=config,
        resume_command=_resume_command(paper, argv),
    )


def _default_out(paper: Paper, preset: str, seed: int | str) -> Path:
    return Path("runs") / paper.name / f"{preset}-{seed}"


def _resume_command(paper: Paper, argv: Sequence[str]) -> str:
    words = [*argv] if "--resume" in argv else [*argv, "--resume"]
    return f"{paper.command} {shlex.join(words)}"


def _preset(paper: Paper, argv: Sequence[str]) -> str:
    """The preset alone, read first: its values are the defaults of all other flags."""
    preset = "cpu"
    for i, word in enumerate(argv):
        if word == "--preset":
            if i + 1 == len(argv):
                raise InputError("preset", f"no value; choose from {', '.join(paper.presets)}")
            preset = argv[i + 1]
        elif word.startswith("--preset="):
            preset = word.removeprefix("--preset=")
    if preset not in paper.presets:
        raise InputError("preset", _unknown(preset, paper.presets))
    return preset


def _studies(paper: Paper, wanted: str) -> tuple[str, ...]:
    """The chosen studies in the experiment's own order, which later studies may rely on."""
    if not wanted:
        return tuple(paper.studies)
    names = [name.strip() for name in wanted.split(",") if name.strip()]
    for name in names:
        if name not in paper.studies:
            raise InputError("studies", _unknown(name, paper.studies))
    if not names:
        raise InputError("studies", f"none named; choose from {', '.join(paper.studies)}")
    return tuple(name for name in paper.studies if name in names)


def _unknown(value: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"unknown {value!r}; {hint}choose from {', '.join(known)}"


def _validate(config: Any) -> None:
    try:
        validate(config)
    except ValueError as error:
        # "batch_size must be positive, got 0": the field's name, then what is wrong with it.
        field, _, message = str(error).partition(" ")
        raise InputError(field.rstrip(":"), message or "not allowed") from error


def _tyro(paper: Paper, preset: str, argv: Sequence[str]) -> tuple[Any, Any]:
    """The common flags and the configuration: the preset's values where no flag says otherwise."""
    import tyro

    config = paper.presets[preset]
    flags: Any = _common_flags(paper, preset)
    fields: Any = type(config)
    no_prefix = tyro.conf.arg(name="")
    arguments = dataclasses.make_dataclass(
        "Arguments",
        [
            ("run", Annotated[flags, no_prefix]),
            ("config", Annotated[fields, no_prefix], dataclasses.field(default=config)),
        ],
    )
    with _one_line_errors():
        parsed, unknown = tyro.cli(
            arguments,
            prog=paper.command,
            description=_description(paper, preset),
            args=list(argv),
            return_unknown_args=True,
        )
    if unknown:
        if unknown[0] in paper.studies:
            raise InputError("studies", "join their names by commas, without spaces")
        raise InputError(unknown[0], _unknown_flag(unknown[0], config))
    return parsed.run, parsed.config


def _common_flags(paper: Paper, preset: str) -> type:
    """A dataclass of the flags that every experiment has, worded for this one."""
    from tyro.conf import arg

    where = _default_out(paper, preset, "<seed>")
    presets = Annotated[
        str,
        arg(metavar="|".join(paper.presets), help="How large the run is; sets the defaults."),
    ]
    out = Annotated[
        str | None,
        arg(metavar="DIR", help="Folder to write to.", help_behavior_hint=f"(default: {where})"),
    ]
    seed = Annotated[int, arg(help="Seed of everything random.")]
    resume = Annotated[bool, arg(help="Go on with an unfinished run in that folder.")]
    studies = Annotated[
        str,
        arg(metavar="A,B", help="Run these studies alone.", help_behavior_hint="(default: all)"),
    ]
    return dataclasses.make_dataclass(
        "CommonFlags",
        [
            ("preset", presets, dataclasses.field(default=preset)),
            ("out", out, dataclasses.field(default=None)),
            ("seed", seed, dataclasses.field(default=0)),
            ("resume", resume, dataclasses.field(default=False)),
            ("studies", studies, dataclasses.field(default="")),
        ],
    )


def _description(paper: Paper, preset: str) -> str:
    width = max(map(len, [*paper.studies, *paper.presets]))
    presets = [f"  {name:<{width}}  {cost}".rstrip() for name, cost in paper.cost.items()]
    studies = [f"  {name:<{width}}  {study.question}" for name, study in paper.studies.items()]
    title = f"{paper.title} ({paper.citation})" if paper.citation else paper.title
    shown = f"The defaults below are those of --preset {preset}."
    return "\n".join(
        [title, "", paper.shows, "", "presets:", *presets, "", "studies:", *studies, "", shown]
    )


def _unknown_flag(flag: str, config: Any) -> str:
    names = [*COMMON_FLAGS, *_field_names(config)]
    known = ["--" + name.replace("_", "-") for name in names]
    close = difflib.get_close_matches(flag.split("=")[0].replace("_", "-"), known, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    kind = "flag" if flag.startswith("-") else "argument"
    return f"unknown {kind}; {hint}--help lists all flags"


def _field_names(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from _field_names(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turns the box that tyro draws around an error into an InputError of one line."""
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured):
            yield
    except SystemExit as stop:
        if not stop.code:
            raise
        text = re.sub(r"\x1b\[[0-9;]*m", "", captured.getvalue())
        # A box: title, message, rule, help. Without UTF-8 its lines are spaces and hyphens.
        rows = [line.strip("╭╮╰╯│─- ") for line in text.splitlines()]
        body = itertools.dropwhile(lambda row: not row, rows[1:])
        message = " ".join(itertools.takewhile(bool, body))
        message = message or " ".join(text.split())
        field = re.search(r"--[\w.-]+", message)
        name = field.group().lstrip("-").replace("-", "_") if field else "command line"
        raise InputError(name, f"{message.rstrip('.')}; see --help") from None
