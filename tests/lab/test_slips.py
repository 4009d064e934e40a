"""A claim about what a run left out is inconclusive; one about a misspelt record is an error."""

import itertools
import math

import pytest

PAPER = """
import numpy as np
from ico import lab

class Config(lab.Config):
    long: bool = False

paper = lab.Paper("slips{number}", config=Config)

@paper.study("?")
def study(run):
    yield lab.record("short", depth=1, loss=np.ones((2, 3)))
    if run.config.long:
        yield lab.record("long", depth=1, loss=np.ones((2, 3)), time=np.ones((2, 3)))
        yield lab.record(f"at {{run.seed}}", loss=np.ones(3))
        yield lab.record("short", **{{"memory": np.ones(3)}})

study.claim("it", "It is.", "ours", band=(0, 2), of={of})
"""
NUMBERS = itertools.count()


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """The value of the paper's claim, measured by the expression."""

    def measure(of):
        name = f"slips_paper_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(PAPER.format(number=name, of=of))
        monkeypatch.syspath_prepend(tmp_path)
        paper = __import__(name).paper
        study = paper.studies["study"]
        (found,) = study.measure(study(paper.run(directory=tmp_path / "run")))
        return found.value

    return measure


def test_what_is_there_is_measured(measured):
    assert measured('lab.mean("loss", record="short")') == 1


@pytest.mark.parametrize(
    "of",
    [
        'lab.mean("loss", record="long")',
        'lab.mean("time", record="short")',
        'lab.mean("memory", record="short", depth=1)',
        'lab.mean("loss", record="at 7")',
        'lab.every(lab.ratio("loss", record="long", depth=(1, 2)), depth=...)',
    ],
)
def test_what_a_run_left_out_is_inconclusive(measured, of):
    assert math.isnan(measured(of))


@pytest.mark.parametrize(
    ("of", "name"),
    [
        ('lab.mean("loss", record="shrot")', "shrot"),
        ('lab.mean("lost", record="short")', "lost"),
        ('lab.ratio(("loss", "lost"), record="short")', "lost"),
        ('lab.falls("loss", along="depth", record="lnog")', "lnog"),
        ('lambda records: lab.measured(records["shrot"].one()["loss"])', "shrot"),
        ('lambda records: lab.measured(records["short"].one()["lost"])', "lost"),
    ],
)
def test_a_misspelt_name_is_an_error(measured, of, name):
    with pytest.raises(KeyError, match=name):
        measured(of)
