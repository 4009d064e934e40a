"""Every experiment through its real command line: help, smoke preset, second call, bad input."""

import dataclasses
import json
import re

import pytest

from experiments._discovery import discover
from experiments.launch import launch

EXPERIMENTS, BROKEN = discover()
VERDICTS = {"reproduced", "not reproduced", "inconclusive"}

NONE = pytest.param("", marks=pytest.mark.skip(reason="no experiments in this tree"))
pytestmark = pytest.mark.parametrize("name", EXPERIMENTS or [NONE])


def assert_refused(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_every_package_can_be_read(name):
    assert not BROKEN


def test_help_lists_presets_studies_and_fields(name, python):
    done = python("-X", "importtime", "-m", f"experiments.{name}", "--help")
    assert done.returncode == 0, done.stderr
    slow = re.findall(r"\| +(jax|flax|orbax|matplotlib|sklearn)$", done.stderr, re.MULTILINE)
    assert not slow, "--help has to answer at once"
    experiment = EXPERIMENTS[name]
    fields = dataclasses.fields(experiment.presets["cpu"])
    for word in [*experiment.presets, *experiment.studies, "--resume", "--studies"]:
        assert word in done.stdout
    for field in fields:
        assert "--" + field.name.replace("_", "-") in done.stdout


def test_presets_are_the_three_and_valid(name):
    experiment = EXPERIMENTS[name]
    assert set(experiment.presets) == {"smoke", "cpu", "paper"}
    for config in experiment.presets.values():
        hash(config)  # frozen, so that it may be a static argument
        if hasattr(config, "validate"):
            config.validate()


def test_every_claim_belongs_to_a_study(name):
    experiment = EXPERIMENTS[name]
    assert experiment.claims
    assert {claim.study for claim in experiment.claims} <= set(experiment.studies)


# Where the first study is nearly a minute of compilation. test-full runs them all.
QUICK = {
    "learned_optimizer": "what_it_learned",
    "noisy_regression": "gd_plus_plus_convergence",
}


def test_a_study_through_its_command_line(name, python, tmp_path):
    """The first one, for most."""
    experiment, folder = EXPERIMENTS[name], tmp_path / "run"
    study = QUICK.get(name) or next(iter(experiment.studies))
    command = ("-m", f"experiments.{name}", "--preset", "smoke", "--studies", study)
    done = python(*command, "--out", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    claims = json.loads((folder / "results.json").read_text())["claims"]
    declared = {claim.id for claim in experiment.claims if claim.study == study}
    assert declared == {claim["id"] for claim in claims if claim["verdict"] in VERDICTS}


@pytest.mark.slow  # minutes of compilation
def test_smoke_preset(name, python, tmp_path):
    """One test for all that needs the run, since two workers would each make it."""
    folder = tmp_path / "run"
    command = ("-m", f"experiments.{name}", "--preset", "smoke", "--out", folder)
    done = python(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(folder / "report.html") in done.stdout.splitlines()[-1]
    assert_every_claim_is_judged(EXPERIMENTS[name], folder)

    before = (folder / "results.json").read_bytes()
    again = python(*command)
    assert again.returncode == 0 and "finished" in again.stdout
    assert (folder / "results.json").read_bytes() == before

    assert_refused(python(*command, "--seed", "1"), "seed 0 -> 1")


def assert_every_claim_is_judged(experiment, folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["experiment"] == experiment.name and results["preset"] == "smoke"
    claims = {claim["id"]: claim for claim in results["claims"]}
    assert list(claims) == [claim.id for claim in experiment.claims]
    for claim in experiment.claims:
        assert claims[claim.id]["verdict"] in VERDICTS, claim.id
        assert claims[claim.id]["band"] == list(claim.band)
    page = (folder / "report.html").read_text()
    assert "<html" in page and 'src="http' not in page


def test_bad_input_is_one_line(name, python, tmp_path):
    command = ("-m", f"experiments.{name}", "--out", tmp_path / "new")
    assert_refused(python(*command, "--preset", "smok"), "preset")
    assert_refused(python(*command, "--studies", "nonsense"), "studies")
    assert not (tmp_path / "new").exists()


def test_negative_sizes_are_refused(name, python, tmp_path):
    """Any integer field whose preset is positive, given -1."""
    config = EXPERIMENTS[name].presets["smoke"]
    sizes = [
        field.name
        for field in dataclasses.fields(config)
        if type(getattr(config, field.name)) is int and getattr(config, field.name) > 0
    ]
    for size in sizes:
        flag = "--" + size.replace("_", "-")
        out = tmp_path / "new"
        assert launch(EXPERIMENTS[name], [flag, "-1", "--out", str(out)]) == 2, size
        assert not out.exists()
