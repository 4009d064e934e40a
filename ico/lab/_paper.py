"""A paper as code that judges itself: its studies, and what is claimed, drawn and tabled of each.

    paper = lab.Paper("npo", arxiv="2404.05868", config=Config, smoke=dict(steps=2))

    @paper.study("Does NPO forget without collapse?")
    def forgetting(run):
        ...
        yield lab.record(method="npo", retain=retain_ST)

    forgetting.claim("retain", "Fig. 3 ...", band=(None, 0.05), of=lab.difference(...))
    forgetting.figure(lab.lines(...), "Fig. 3. ...")

`paper.main()` is the command line.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from ico.files import commit_of
from ico.lab._config import Config
from ico.lab._measures import Measure
from ico.lab._run import Run
from ico.report import Band, Claim, EveryPair, Kind, Measurement, Missing, Record, Records, unjudged

# Flags that every experiment has; a configuration may not use these names for its fields.
COMMON_FLAGS = ("preset", "out", "seed", "resume", "studies", "help")

Draw = Callable[[Records], Any]  # -> matplotlib figure, or None where there is nothing to show
Rows = Callable[[Records], list[dict]]


@dataclasses.dataclass(frozen=True)
class Figure:
    """A picture of a study: how it is drawn from the records, and its caption."""

    name: str
    draw: Draw
    caption: str


class Study:
    """One question of a paper: a function from a run to records, and what is said of them."""

    def __init__(self, paper: Paper, question: str, function: Callable[[Run], Iterable[Record]]):
        self.paper, self.question, self.function = paper, question, function
        self.name: str = function.__name__
        if not re.fullmatch(r"[a-z][a-z0-9_]*", self.name):
            raise ValueError(f"study {self.name!r}: names are of a-z, 0-9 and _")
        self.__doc__ = function.__doc__
        self.claims: dict[str, Claim] = {}
        self.figures: list[Figure] = []
        self.tables: dict[str, Rows] = {}
        self._measures: dict[str, Measure] = {}
        self._notes: list[str] = []

    def __call__(self, run: Run) -> Records:
        """Runs it and returns what it found. Matrix products run at `highest` precision."""
        # Accelerators round the operands of matrix products by default, which breaks 1e-4.
        with jax.default_matmul_precision("highest"), run.noting() as said:
            found = list(self.function(run) or ())
        wrong = [type(one).__name__ for one in found if not isinstance(one, Record)]
        if wrong:
            raise TypeError(f"study {self.name} gave {wrong[0]}; yield lab.record(...)")
        return Records(found, [*self._notes, *said])

    def claim(
        self,
        name: str,
        statement: str,
        source: str,
        *,
        band: Band,
        unit: str = "",
        kind: Kind = "paper",
        paper_value: float | int | None = None,
        of: Measure | None = None,
    ) -> Any:
        """Declares a claim. Without `of` it decorates the function of the records that measures it.

        Args:
          name: within the study.
          statement: the sentence claimed, in plain words.
          source: figure, table, section or equation; the paper's arXiv number is put before it.
          band: (low, high) that the measurement must fall in, fixed before any run; None is open.
          unit: such as "nats", "ratio", "half squared error".
          kind: "core" (a sentence of the abstract), "paper" (a figure or table), "ours".
          paper_value: the paper's own number, where it prints one.
          of: records -> Measurement or EveryPair; `lab.mean`, `lab.ratio`, `lab.every` ... make
            one. Where it asks for a record that the run left out, the claim is inconclusive.

        Raises:
          ValueError: a name taken, or a malformed claim.
        """
        if of is None:
            return functools.partial(
                self._claim, name, statement, source, band, unit, kind, paper_value
            )
        return self._claim(name, statement, source, band, unit, kind, paper_value, of)

    def _claim(self, name, statement, source, band, unit, kind, paper_value, of: Measure):
        numbered = re.match(r"\d{4}\.\d{4,5}|ours", source) or not self.paper.arxiv
        whole = source if numbered else f"{self.paper.arxiv}, {source}"
        claim = Claim(f"{self.name}.{name}", statement, whole, unit, band, kind, paper_value)
        if name in self.claims:
            raise ValueError(f"claim {claim.id} is declared twice")
        self.claims[name], self._measures[name] = claim, of
        return of

    def figure(self, draw: Draw | str, caption: str = "", *, name: str = "") -> Any:
        """Declares a picture: `study.figure(lab.lines(...), "caption")`, or a decorator.

            @study.figure("Fig. 2. Loss while one layer trains.")
            def training(records): ...

        Its file is named <study>_<function>, or `name`.
        """
        if isinstance(draw, str):
            return lambda function: self.figure(function, draw, name=name)
        declared = draw.__module__.startswith("ico.lab")  # by `lab.lines` and its kin
        suffix = "" if declared else "_" + draw.__name__.strip("_")
        name = name or self.name + suffix
        taken = {f.name for study in [self, *self.paper.declared] for f in study.figures}
        if name in taken:
            name = f"{name}_{len(self.figures) + 1}"
        if name in taken:
            raise ValueError(f"{self.paper.name}: two figures would be called {name}")
        self.figures.append(Figure(name, draw, caption))
        return draw

    def table(self, name: str, rows: Rows | None = None) -> Any:
        """Declares a table, a function from the records to rows; or decorates one."""
        if rows is None:
            return lambda function: self.table(name, function)
        self.tables[name] = rows
        return rows

    def note(self, *sentences: str) -> None:
        """Sentences for the reader of every run, such as what was tried and failed."""
        self._notes.extend(sentences)

    def measure(self, records: Records) -> list[Measurement]:
        """Measures every claim of the study on its records."""
        return [
            self._measure(claim, self._measures[name], records)
            for name, claim in self.claims.items()
        ]

    def _measure(self, claim: Claim, measure: Measure, records: Records) -> Measurement:
        try:
            found = measure(records)
        except Missing as absent:
            found = unjudged(str(absent))
        if isinstance(found, EveryPair):
            found = found.within(claim.band)
        return dataclasses.replace(found, claim=claim.id)

    def tabulate(self, records: Records) -> dict[str, list[dict]]:
        """The rows of every table; a table of what the run left out is left out."""
        tables = {}
        for name, rows in self.tables.items():
            try:
                tables[name] = rows(records)
            except Missing:
                continue
        return {name: rows for name, rows in tables.items() if rows}


class Paper:
    """A paper, or a small system, that can be run: presets, studies, claims.

    Args:
      name: of the experiment, as its run folders and results are called.
      config: the class of its configuration; `config()` is the preset `cpu`.
      title: by default the first line of the docstring of the module that defines `config`.
      authors, year, arxiv: of the paper.
      shows: what it shows, in a sentence; by default the second paragraph of that docstring.
      smoke, paper: what these presets change. `smoke` tries every line of code in under a minute,
        `paper` is the published setting; without `paper` there is no such preset.
      studies: names of the modules beside this one that define the studies, in the order of
        running; empty where they stand in the same file.
      cost: preset -> how long it takes, in words.
    """

    def __init__(
        self,
        name: str,
        *,
        config: type[Config],
        title: str = "",
        authors: str = "",
        year: int | None = None,
        arxiv: str = "",
        shows: str = "",
        smoke: Mapping[str, Any] | None = None,
        paper: Mapping[str, Any] | None = None,
        studies: Sequence[str] = (),
        cost: Mapping[str, str] | None = None,
    ):
        self.name, self.authors, self.year, self.arxiv = name, authors, year, arxiv
        self._module, self._files = config.__module__, tuple(studies)
        paragraphs = (sys.modules[self._module].__doc__ or name).strip().split("\n\n")
        self.title = title or paragraphs[0].split("\n")[0].rstrip(".")
        self.shows = shows or (" ".join(paragraphs[1].split()) if len(paragraphs) > 1 else "")
        self.presets: dict[str, Any] = {"smoke": config(**(smoke or {})), "cpu": config()}
        if paper is not None:
            self.presets["paper"] = config(**paper)
        self.cost = {preset: "" for preset in self.presets} | dict(cost or {})
        if unknown := set(self.cost) - set(self.presets):
            raise ValueError(f"{name}: a cost of no preset: {sorted(unknown)}")
        taken = {field.name for field in dataclasses.fields(config)} & set(COMMON_FLAGS)  # type: ignore
        if taken:
            raise ValueError(f"{name}: field names taken by common flags: {sorted(taken)}")
        self._studies: dict[str, Study] = {}

    def study(self, question: str) -> Callable[[Callable[[Run], Iterable[Record]]], Study]:
        """Declares a study: decorates a function from a run to records, named as the study is."""

        def declare(function: Callable[[Run], Iterable[Record]]) -> Study:
            study = Study(self, question, function)
            if study.name in self._studies:
                raise ValueError(f"{self.name}: two studies are called {study.name}")
            self._studies[study.name] = study
            return study

        return declare

    @property
    def declared(self) -> list[Study]:
        """The studies that have been declared so far, in the order of their declaration."""
        return list(self._studies.values())

    @property
    def studies(self) -> dict[str, Study]:
        """All studies by name, in the order of running; loads the files that define them."""
        for file in self._files:
            importlib.import_module(f"{self.package}.{file}")
        return self._studies

    @property
    def citation(self) -> str:
        """Such as "von Oswald et al., 2022, arXiv:2212.07677"; what is known of it."""
        number = f"arXiv:{self.arxiv}" if self.arxiv else ""
        return ", ".join(str(part) for part in (self.authors, self.year, number) if part)

    @property
    def claims(self) -> tuple[Claim, ...]:
        """Those of all studies."""
        return tuple(claim for study in self.studies.values() for claim in study.claims.values())

    @property
    def package(self) -> str:
        """Where its files are: the package of a paper, the module of a small system."""
        return self._module.removesuffix(".paper")

    @property
    def command(self) -> str:
        """What launches it: `python -m experiments.gd_in_context`."""
        if self._module != "__main__":
            return f"python -m {self.package}"
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        return f"python -m {spec.name}" if spec else f"python {sys.argv[0]}"

    @property
    def file(self) -> Path:
        """The file that defines it."""
        return Path(getattr(sys.modules[self._module], "__file__", None) or "unknown.py").resolve()

    @functools.cached_property
    def commit(self) -> str:
        """Of the code that defines it, when this was first asked for."""
        return commit_of(self.file.parent)

    @property
    def code(self) -> str:
        """A hash of the files that declare its claims, tables and figures."""
        is_package = self.file.name == "paper.py"
        files = sorted(self.file.parent.glob("*.py")) if is_package else [self.file]
        digest = hashlib.sha256()
        for file in files:
            digest.update(file.read_bytes() if file.exists() else b"")
        return digest.hexdigest()[:12]

    @property
    def published(self) -> Path:
        """Where its published results stand: beside a paper, in a folder for small systems."""
        if self.file.name == "paper.py":
            return self.file.with_name("results.json")
        return self.file.parent / "results" / f"{self.file.stem}.json"

    def run(self, config: Any = None, *, directory: str | Path = "", seed: int = 0) -> Run:
        """A run to call studies with, as notebooks do: `one_layer(paper.run(config))`.

        Args:
          config: by default the preset `smoke`.
          directory: where artefacts are kept; by default runs/<name>/notebook-<seed>.
          seed: of everything random.

        Raises:
          ValueError: a value of `config` out of its range.
        """
        config = self.presets["smoke"] if config is None else config
        config.validate()
        directory = Path(directory or f"runs/{self.name}/notebook-{seed}").absolute()
        return Run(config, directory, seed, code=self.file.parent)

    def main(self, argv: Sequence[str] | None = None) -> int:
        """The command line: runs what it asks for and returns the exit status."""
        from ico.lab._launch import launch

        return launch(self, argv)
