"""Studies survive the disk, damage is seen, and results.json is what DESIGN says."""

import dataclasses
import json
import os

import chex
import numpy as np
import pytest

from experiments.report.run import main
from ico import report
from ico.report import (
    Claim,
    Measurement,
    Records,
    StudyResult,
    load_study,
    record,
    save_study,
)
from ico.report._results import training_seconds


def _strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_studies_round_trip(tmp_path, studies):
    for name, study in studies.items():
        save_study(tmp_path, name, study)
        back = load_study(tmp_path, name)
        assert str(back.claims) == str(study.claims)  # as text: NaN is not equal to itself
        assert str(back.tables) == str(study.tables)
        assert (back.notes, back.seconds) == (study.notes, study.seconds)
        assert len(back.records) == len(study.records)
        for mine, theirs in zip(back.records, study.records, strict=True):
            assert (mine.name, mine.axes) == (theirs.name, theirs.axes)
            chex.assert_trees_all_equal(dict(mine.values), dict(theirs.values))
        assert list(back.records.notes) == study.notes


def test_numpy_values_become_plain(tmp_path):
    value, end = np.float32(0.5), np.float64(0.25)
    study = StudyResult(
        Records(),
        [Measurement(value, (end, value), np.int64(3), np.int32(4), claim="a.b")],
        {"t": [{"x": np.arange(2), "y": np.bool_(True), 3: tmp_path}]},
    )
    save_study(tmp_path, "a", study)
    back = load_study(tmp_path, "a")
    assert back.claims == [Measurement(0.5, (0.25, 0.5), 3, 4, claim="a.b")]
    assert back.tables == {"t": [{"x": [0, 1], "y": True, "3": str(tmp_path)}]}


def test_saving_twice_gives_the_same_bytes(tmp_path, studies):
    for folder in ("a", "b"):
        save_study(tmp_path / folder, "one_layer", studies["one_layer"])
    for name in ("one_layer.json", "one_layer.npz"):
        a, b = ((tmp_path / folder / "studies" / name).read_bytes() for folder in ("a", "b"))
        assert a == b


def _cut(path):
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("s.json", _cut),
        ("s.npz", _cut),
        ("s.npz", os.unlink),
        ("s.json", lambda path: path.write_text("[]")),
        ("s.json", lambda path: path.write_bytes(b"\xff\xfe")),
    ],
)
def test_damage_is_a_warning_and_none(tmp_path, capsys, studies, name, damage):
    save_study(tmp_path, "s", studies["one_layer"])
    damage(tmp_path / "studies" / name)
    assert load_study(tmp_path, "s") is None
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "s.json is damaged" in error


def test_a_pair_from_two_saves_is_damage(tmp_path, studies):
    """Killed between the two files, the new arrays must not pass as the old study's."""
    save_study(tmp_path, "s", studies["one_layer"])
    save_study(tmp_path, "t", StudyResult(Records([record(loss=np.zeros(3))])))
    folder = tmp_path / "studies"
    os.replace(folder / "t.npz", folder / "s.npz")
    assert load_study(tmp_path, "s") is None


def test_a_missing_study_is_none_without_a_word(tmp_path, capsys):
    assert load_study(tmp_path, "s") is None
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("name", ["../s", "a/b", "", "a.b"])
def test_study_names_stay_in_their_folder(tmp_path, name):
    with pytest.raises(ValueError, match="study name"):
        save_study(tmp_path, name, StudyResult())


def test_a_study_that_was_not_measured_yet_is_told_from_one_without_claims(tmp_path):
    for claims in (None, []):
        save_study(tmp_path, "s", StudyResult(claims=claims))
        assert load_study(tmp_path, "s").claims == claims


def test_results_have_the_schema_of_the_design(tmp_path, write):
    returned = write(tmp_path)
    text = (tmp_path / "results.json").read_text()
    results = _strict(text)
    assert results == returned == report.read_results(tmp_path)
    design = {"experiment", "preset", "seed", "git", "versions", "seconds", "claims", "tables"}
    more = {"studies", "machine", "config", "training_seconds", "artifact_commits"}
    assert design | more == results.keys()
    for claim in results["claims"]:
        assert {"id", "statement", "source", "measured", "unit", "band", "n_seeds"} <= claim.keys()
        assert {"ci95", "verdict", "kind", "paper_value", "failure_rate"} <= claim.keys()
    kinds = [(claim["kind"], claim["paper_value"]) for claim in results["claims"]]
    assert kinds[:3] == [("core", 0.2062), ("ours", None), ("paper", None)]
    assert {"jax", "jaxlib", "flax", "optax", "numpy", "python"} == results["versions"].keys()
    assert results["seconds"] == 112.5
    assert results["studies"]["deep"] == {"seconds": 100.0, "notes": [], "git": results["git"]}
    verdicts = {claim["id"]: claim["verdict"] for claim in results["claims"]}
    assert verdicts == {
        "one_layer.loss": "reproduced",
        "one_layer.identity": "reproduced",
        "deep.gain": "inconclusive",
        "deep.late": "not reproduced",
        "sine.loss": "inconclusive",
        "real.loss": "not run",
    }
    sine = results["claims"][4]
    assert (sine["measured"], sine["ci95"]) == (None, [None, None])
    assert os.uname().nodename not in text or len(os.uname().nodename) < 6


def test_results_from_names_are_those_from_studies(tmp_path, write, studies):
    for name, study in studies.items():
        save_study(tmp_path, name, study)
    assert write(tmp_path, studies=[*studies, "absent"]) == write(tmp_path)


def test_results_need_declared_single_claims(tmp_path, write, studies):
    twice = dict(studies, again=studies["deep"])
    with pytest.raises(ValueError, match=r"twice: deep\.gain, deep\.late"):
        write(tmp_path, studies=twice)
    with pytest.raises(ValueError, match=r"never claimed: deep\.gain"):
        write(tmp_path, claims=[Claim("one_layer.loss", "", "", "", (0, 1))])
    assert not (tmp_path / "results.json").exists()


def test_results_of_before_these_fields_existed_load(tmp_path, write):
    results = write(tmp_path)
    for claim in results["claims"]:
        for name in ("kind", "paper_value", "failure_rate"):
            del claim[name]
    (tmp_path / "results.json").write_text(json.dumps(results))
    claim = report.read_results(tmp_path)["claims"][0]
    assert (claim["kind"], claim["paper_value"], claim["failure_rate"]) == ("paper", None, None)


@pytest.mark.parametrize("text", ["{", "[]", '{"experiment": "x"}', None])
def test_bad_results_are_one_line_that_names_the_file(tmp_path, text):
    if text is not None:
        (tmp_path / "results.json").write_text(text)
    with pytest.raises(ValueError, match=r"results\.json ") as error:
        report.read_results(tmp_path)
    assert "\n" not in str(error.value)


WRONG = {
    "measured": "0.25",
    "band": [0.1],
    "ci95": [0.3, 0.2],
    "verdict": "very reproduced",
    "kind": "theirs",
    "statement": 3,
    "note": ["said"],
    "n_seeds": "3",
    "failure_rate": [0.1],
    "paper_value": True,
}


@pytest.mark.parametrize("name", WRONG)
def test_a_claim_of_wrong_types_is_named_by_the_command_line(name, tmp_path, write, capsys):
    results = write(tmp_path)
    results["claims"][1][name] = WRONG[name]
    (tmp_path / "results.json").write_text(json.dumps(results))
    assert main([str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert "results.json, claim 1 is damaged" in err and name in err


@pytest.mark.parametrize("text", ['{"claims": ' + "[" * 100_000, '{"claims": [5]}', "[" * 500, "7"])
def test_hostile_results_are_one_line_on_the_command_line(text, tmp_path, capsys):
    (tmp_path / "results.json").write_text(text)
    assert main([str(tmp_path), str(tmp_path / "absent")]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 2 and err.count("error: ") == 2 and "results.json" in err


def test_extreme_numbers_are_shown(tmp_path, write):
    results = write(tmp_path)
    results["claims"][0] |= {"measured": 1e308, "ci95": [-1.7e308, 1.7e308], "band": [None, 5e-324]}
    (tmp_path / "results.json").write_text(json.dumps(results))
    report.write_html(tmp_path, title="t", paper="p")
    assert "1.7" in report.reproduction_table([tmp_path])


def test_a_result_is_replaceable_field_by_field(studies):
    assert dataclasses.replace(studies["deep"], seconds=1.0).seconds == 1.0


def test_seconds_of_a_run_are_those_of_its_artefacts(tmp_path):
    """By the log of its training, or from when its making last began to when it was done."""

    def artefact(name, **times):
        folder = tmp_path / "checkpoints" / name
        folder.mkdir(parents=True)
        for file, seconds in times.items():
            path = folder / f"{file}.json"
            path.write_text("{}")
            os.utime(path, (1_000 + seconds, 1_000 + seconds))
        return folder

    artefact("made", spec=0, done=30)
    artefact("interrupted", spec=0)
    logged = artefact("logged", spec=0, done=500)
    (logged / "metrics.jsonl").write_text('{"step": 1, "seconds": 5}\n{"step": 2, "seconds": 7}\n')
    assert training_seconds(tmp_path) == pytest.approx(37)
