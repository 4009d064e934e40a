"""Every experiment through its real command line: help, smoke preset, second call, bad input."""

import dataclasses
import json

import pytest

from experiments.__main__ import main
from experiments._discovery import discover, modules

EXPERIMENTS, BROKEN = discover()
VERDICTS = {"reproduced", "not reproduced", "inconclusive"}
pytestmark = pytest.mark.parametrize("name", modules())


def assert_refused(done, *words):
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_it_can_be_read(name):
    assert not BROKEN


def test_help_lists_presets_studies_and_fields(name, capsys):
    """Launched by its name alone; what it imports is tested with the listing."""
    paper = EXPERIMENTS[name]
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    text = capsys.readouterr().out
    assert paper.title in " ".join(text.split())
    for word in [*paper.presets, *paper.studies, "--resume", "--studies"]:
        assert word in text
    for field in dataclasses.fields(paper.presets["cpu"]):
        assert "--" + field.name.replace("_", "-") in text


def test_presets_are_valid(name):
    paper = EXPERIMENTS[name]
    assert {"smoke", "cpu"} <= set(paper.presets) <= {"smoke", "cpu", "paper"}
    for config in paper.presets.values():
        hash(config)  # frozen, so that it may be a static argument
        config.validate()


def test_every_study_says_something(name):
    """By claims, or at least by a figure; and the paper has claims."""
    paper = EXPERIMENTS[name]
    assert paper.claims
    for study in paper.studies.values():
        assert study.claims or study.figures, study.name
        assert study.question.endswith("?") and len(study.question) < 100
    for claim in paper.claims:
        assert claim.statement and claim.source


def test_published_results_are_of_these_claims(name):
    """With these bands and kinds: what is published is what is claimed."""
    paper = EXPERIMENTS[name]
    if not paper.published.exists():
        pytest.skip("not published")
    published = {c["id"]: c for c in json.loads(paper.published.read_text())["claims"]}
    assert list(published) == [claim.id for claim in paper.claims]
    for claim in paper.claims:
        entry = published[claim.id]
        assert entry["band"] == list(claim.band) and entry["statement"] == claim.statement
        assert (entry["kind"], entry["paper_value"]) == (claim.kind, claim.paper_value)


# The study that compiles least, where that is not the first. test-full runs them all.
QUICK = {
    "hypertransformer": "attention_is_prototype",
    "learnable_memory": "memory_in_linear_attention",
    "multihead_distillation": "dropout",
    "noisy_regression": "gd_plus_plus_convergence",
    "continual_hypertransformer": "mini_batches",
    "outlandish": "spectrum",
    "training_trajectories": "stationary_distance",
}


def test_a_study_through_its_command_line(name, tmp_path, capsys):
    """Its smoke preset judges the claims of that study and no others."""
    paper, folder = EXPERIMENTS[name], tmp_path / "run"
    if name == "learned_optimizer":
        pytest.skip("every study meta-trains: test_smoke_preset")
    study = QUICK.get(name) or next(iter(paper.studies))
    words = ["--preset", "smoke", "--studies", study, "--out", str(folder)]
    assert main([name, *words]) == 0, capsys.readouterr()
    claims = json.loads((folder / "results.json").read_text())["claims"]
    declared = {claim.id for claim in paper.claims if claim.study == study}
    assert declared == {claim["id"] for claim in claims if claim["verdict"] in VERDICTS}


@pytest.mark.slow  # minutes of compilation
def test_smoke_preset(name, python, tmp_path):
    """One test for all that needs the run, since two workers would each make it."""
    folder, paper = tmp_path / "run", EXPERIMENTS[name]
    command = ("-m", paper.package, "--preset", "smoke", "--out", folder)
    done = python(*command)
    assert done.returncode == 0, done.stdout + done.stderr
    assert str(folder / "report.html") in done.stdout.splitlines()[-1]
    assert_every_claim_is_judged(paper, folder)

    before = (folder / "results.json").read_bytes()
    again = python(*command)
    assert again.returncode == 0 and "finished" in again.stdout
    assert (folder / "results.json").read_bytes() == before

    assert_refused(python(*command, "--seed", "1"), "seed 0 -> 1")


def assert_every_claim_is_judged(paper, folder):
    results = json.loads((folder / "results.json").read_text())
    assert results["experiment"] == paper.name and results["preset"] == "smoke"
    claims = {claim["id"]: claim for claim in results["claims"]}
    assert list(claims) == [claim.id for claim in paper.claims]
    for claim in paper.claims:
        assert claims[claim.id]["verdict"] in VERDICTS, claim.id
        assert claims[claim.id]["band"] == list(claim.band)
    page = (folder / "report.html").read_text()
    assert "<html" in page and 'src="http' not in page
    drawn = {path.stem for path in (folder / "figures").glob("*.png")}
    wanted = {figure.name for study in paper.studies.values() for figure in study.figures}
    assert drawn <= wanted and len(drawn) >= len(wanted) / 2


def test_bad_input_is_one_line(name, tmp_path, capsys):
    paper = EXPERIMENTS[name]
    for words in (["--preset", "smok"], ["--studies", "nonsense"]):
        assert paper.main([*words, "--out", str(tmp_path / "new")]) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {words[0].strip('-')}: ") and error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_negative_sizes_are_refused(name, tmp_path, capsys):
    """Any number whose preset is positive, given -1."""
    paper = EXPERIMENTS[name]
    config, out = paper.presets["smoke"], tmp_path / "new"
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if type(value) in (int, float) and value > 0:
            flag = "--" + field.name.replace("_", "-")
            assert paper.main([flag, "-1", "--out", str(out)]) == 2, field.name
            assert field.name in capsys.readouterr().err
            assert not out.exists()
