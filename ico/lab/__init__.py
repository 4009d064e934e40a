"""A paper as code that judges itself: command line, resuming, claims, verdicts, figures, report.

    from ico import lab

    class Config(lab.Config):
        # Tasks that losses are compared on.
        num_tasks: lab.Count = 1_000

    paper = lab.Paper("mine", config=Config, smoke={"num_tasks": 8})

    @paper.study("Is one optimizer better than another?")
    def race(run):
        for name, loss_ST in ...:
            yield lab.record(optimizer=name, loss=loss_ST)

    race.claim("better", "A beats B", "Table 1", band=(None, 1), unit="ratio",
               of=lab.ratio("loss", optimizer=("A", "B")))
    race.figure(lab.bars("loss", color="optimizer"), "Loss of both, with 95% intervals.")

    if __name__ == "__main__":
        raise SystemExit(paper.main())

Nothing here knows this repository: it serves any project that imports it.
"""

from ico.lab._config import (
    Config,
    Count,
    Distinct,
    Natural,
    NonNegative,
    Positive,
    Range,
    Share,
)
from ico.lab._contrasts import beside, dots, gaps
from ico.lab._describe import describe
from ico.lab._errors import InputError
from ico.lab._measures import (
    controlled,
    difference,
    every,
    exact,
    falls,
    mean,
    median,
    ratio,
    reduction,
)
from ico.lab._output import print_what_fits
from ico.lab._paper import Paper, Study
from ico.lab._recipe import Recipe, Restart
from ico.lab._run import Run, once
from ico.lab._show import bars, grid, lines, maps, points, rows
from ico.lab._train import Trained, best_seed, regression_loss, train
from ico.report import (
    EveryPair,
    Measurement,
    Missing,
    Record,
    Records,
    interval,
    measured,
    record,
    unjudged,
)

__all__ = [
    "Config",
    "Count",
    "Distinct",
    "EveryPair",
    "InputError",
    "Measurement",
    "Missing",
    "Natural",
    "NonNegative",
    "Paper",
    "Positive",
    "Range",
    "Recipe",
    "Record",
    "Records",
    "Restart",
    "Run",
    "Share",
    "Study",
    "Trained",
    "bars",
    "beside",
    "best_seed",
    "controlled",
    "describe",
    "difference",
    "dots",
    "every",
    "exact",
    "falls",
    "gaps",
    "grid",
    "interval",
    "lines",
    "maps",
    "mean",
    "measured",
    "median",
    "once",
    "points",
    "print_what_fits",
    "ratio",
    "record",
    "reduction",
    "regression_loss",
    "rows",
    "train",
    "unjudged",
]
