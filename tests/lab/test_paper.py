"""A paper declares its studies, claims, figures and tables, and keeps what took long."""

import numpy as np
import pytest

from ico import lab


class Config(lab.Config):
    """Nothing to choose but seeds."""

    num_seeds: lab.Count = 2


def new_paper(**arguments):
    return lab.Paper("example", config=Config, arxiv="1234.56789", **arguments)


def test_title_and_summary_come_from_the_docstring_and_presets_from_the_changes():
    paper = new_paper(smoke={"num_seeds": 1}, paper={"num_seeds": 9})
    assert paper.title == "A paper declares its studies, claims, figures and tables, and keeps " + (
        "what took long"
    )
    assert {p: c.num_seeds for p, c in paper.presets.items()} == {"smoke": 1, "cpu": 2, "paper": 9}
    assert set(new_paper().presets) == {"smoke", "cpu"}
    with pytest.raises(ValueError, match="no preset"):
        new_paper(cost={"quick": "a second"})


def test_a_study_is_called_with_a_run_and_judged():
    paper = new_paper()

    @paper.study("Is two two?")
    def two(run):
        run.note("said while running")
        yield lab.record(number=np.asarray(2.0), seeds=run.num_seeds)

    two.note("always said")
    two.claim("is_two", "It is.", "Fig. 1", band=(2, 2), kind="core", paper_value=2,
              of=lab.exact("number"))  # fmt: skip
    two.claim("left_out", "What was not run.", "ours", band=(0, 1), kind="ours",
              of=lab.mean("absent", depth=3))  # fmt: skip

    @two.claim("decorated", "It is more than one.", "2222.22222, Eq. 3", band=(1, None))
    def _more(records):
        return lab.measured(np.full((2, 50), records.one()["number"]))

    found = two(paper.run(Config()))
    assert found.one()["seeds"] == 2 and found.notes == ("always said", "said while running")
    claims = {claim.id: claim for claim in paper.claims}
    assert list(claims) == ["two.is_two", "two.left_out", "two.decorated"]
    assert claims["two.is_two"].source == "1234.56789, Fig. 1"
    assert (claims["two.left_out"].source, claims["two.left_out"].kind) == ("ours", "ours")
    assert claims["two.decorated"].source == "2222.22222, Eq. 3"

    with pytest.raises(KeyError, match="depth"):  # an axis that no record has is a slip, not a gap
        two.measure(found)
    two._measures["left_out"] = lab.mean("absent")
    measured = {m.claim: m for m in two.measure(found)}
    assert measured["two.is_two"].value == 2 and measured["two.decorated"].value == 2
    assert np.isnan(measured["two.left_out"].value) and "absent" in measured["two.left_out"].note
    with pytest.raises(ValueError, match="twice"):
        two.claim("is_two", "", "", band=(0, 1), of=lab.exact("number"))


def test_figures_and_tables_are_declared_or_decorated():
    paper = new_paper()

    @paper.study("What is drawn?")
    def shown(run):
        yield lab.record(x=1, y=np.ones(3))

    shown.figure(lab.bars("y"), "declared")

    @shown.figure("decorated")
    def second(records):
        return None

    @shown.table("rows")
    def _rows(records):
        return [{"n": len(records)}]

    shown.table("absent", lab.rows("z"))
    assert [(f.name, f.caption) for f in shown.figures] == [
        ("shown", "declared"),
        ("shown_second", "decorated"),
    ]
    assert shown.tabulate(shown(paper.run())) == {"rows": [{"n": 1}]}


def test_a_study_gives_records_alone():
    paper = new_paper()

    @paper.study("What if it gives something else?")
    def wrong(run):
        yield {"loss": 1}

    with pytest.raises(TypeError, match="lab.record"):
        wrong(paper.run())
    with pytest.raises(ValueError, match="two studies"):
        paper.study("Again?")(wrong.function)
    with pytest.raises(ValueError, match="num_seeds must be"):
        paper.run(Config(num_seeds=0))


def test_fields_may_not_be_named_as_common_flags():
    class Taken(lab.Config):
        seed: int = 0

    with pytest.raises(ValueError, match="seed"):
        lab.Paper("taken", config=Taken)


def test_keys_are_stable_and_differ(tmp_path):
    import jax

    def bits(seed, name):
        key = new_paper().run(directory=tmp_path, seed=seed).key(name)
        return tuple(np.asarray(jax.random.key_data(key)).tolist())

    assert bits(0, "train") == bits(0, "train")
    assert len({bits(0, "train"), bits(0, "test"), bits(1, "train")}) == 3


def test_once_is_of_a_run_and_kept_outlives_it(tmp_path):
    made = []

    def make(folder=None):
        made.append(folder)
        return {"x": np.arange(3.0)}

    first, second = (new_paper().run(directory=tmp_path) for _ in range(2))
    assert first.once("a", make) is first.once("a", make)
    assert first.once(("a", 1), make) is not second.once("a", make)
    assert len(made) == 3
    for run in (first, second, first):
        np.testing.assert_array_equal(run.kept("b", {"n": 3}, make)["x"], np.arange(3.0))
    assert len(made) == 4
    new_paper().run(directory=tmp_path, seed=1).kept("b", {"n": 3}, make)
    first.kept("b", {"n": 4}, make)
    assert len(made) == 6


def test_a_decorated_function_is_called_once_for_equal_arguments(tmp_path):
    calls = []

    @lab.once
    def made(run, size=10, *, kind="a"):
        calls.append((size, kind))
        return [size, kind]

    run = new_paper().run(directory=tmp_path)
    assert made(run) is made(run, 10) is made(run, kind="a")
    assert made(run, 5) == [5, "a"]
    assert calls == [(10, "a"), (5, "a")]
    assert made(new_paper().run(directory=tmp_path)) is not made(run)
