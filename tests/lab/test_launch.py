"""The command line of an experiment, on a tiny paper of two studies."""

import importlib
import json
import re
import signal
import sys
import time

import pytest

from tests.lab.conftest import assert_refused


def test_a_run_from_first_line_to_last(paper):
    status, out, _ = paper("--preset", "smoke", "--seed", "3")
    lines = out.splitlines()
    assert status == 0
    assert "2 of 2 studies" in lines[0] and "a second" in lines[0] and str(paper.out) in lines[0]
    assert re.search(r"\[1/2\] first: \d", out) and re.search(r"\[2/2\] second: \d", out)
    assert "✓ first.one: 1, band 1 to 1: reproduced" in out
    assert "✗ second.two: 2 ratio [1.5, 2.5], band at least 3: not reproduced" in out
    assert lines[-1] == f"report: {paper.out / 'report.html'}"
    assert (paper.out / "report.html").exists()
    config = json.loads((paper.out / "config.json").read_text())
    assert config["config"] == {"batch_size": 2, "sizes": [1, 2]} and config["seed"] == 3


def test_a_finished_run_says_so_and_runs_nothing(paper):
    paper()
    for arguments in [(), ("--resume",), ("--studies", "first")]:
        status, out, _ = paper(*arguments)
        assert status == 0 and "finished" in out and "first.one" in out and "report:" in out
    assert paper.ran == ["first", "second"]


def test_default_folder_and_flags(paper, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    status, _, _ = paper("--sizes", "4", "5", "--batch-size", "7", "--seed", "1", out=False)
    assert status == 0
    config = json.loads((tmp_path / "runs/tiny/cpu-1/config.json").read_text())
    assert config["config"] == {"batch_size": 7, "sizes": [4, 5]}


def test_other_studies_are_added(paper):
    paper("--studies", "second")
    assert paper.verdicts == {"first.one": "not run", "second.two": "not reproduced"}
    status, out, _ = paper()
    assert status == 0 and "second: already done" in out
    assert paper.verdicts == {"first.one": "reproduced", "second.two": "not reproduced"}
    assert paper.ran == ["second", "first"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--preset", "smok"], ["preset", "smoke, cpu, paper", "did you mean"]),
        (["--preset"], ["preset"]),
        (["--studies", "first,sekond"], ["studies", "did you mean 'second'"]),
        (["--batch-size", "-1"], ["batch_size", "at least 1"]),
        (["--sizes", "1", "1"], ["sizes", "twice"]),
        (["--batch-size", "many"], ["batch_size", "many"]),
        (["--batch_sise", "4"], ["--batch_sise", "did you mean --batch-size"]),
        (["--seed", "-1"], ["seed"]),
        (["stray"], ["stray"]),
        (["--studies", "first", "second"], ["studies", "commas"]),
    ],
)
def test_bad_flags_are_one_line_and_write_nothing(paper, arguments, words):
    assert_refused(paper(*arguments), *words)
    assert not paper.out.exists()


def test_another_configuration_is_refused(paper):
    paper()
    assert_refused(paper("--batch-size", "9"), "batch_size 8 -> 9", "--out")
    assert_refused(paper("--seed", "1"), "seed 0 -> 1")
    assert_refused(paper("--preset", "smoke", "--resume"), "preset cpu -> smoke")
    (paper.out / "config.json").write_text("{")
    assert_refused(paper(), "config.json", "damaged")


def test_a_run_that_left_nothing_is_in_nobodys_way(paper):
    """Such as one whose --model was mistyped."""
    paper.out.mkdir()
    (paper.out / "config.json").write_text('{"experiment": "tiny", "config": {"batch_size": 7}}')
    (paper.out / ".unfinished.json").write_text('["first", "second"]')
    assert paper()[0] == 0
    assert json.loads((paper.out / "config.json").read_text())["config"]["batch_size"] == 8


@pytest.mark.parametrize("name", ["results.json", "report.html", "studies", "config.json"])
def test_somebodys_files_are_not_overwritten(paper, name):
    paper.out.mkdir()
    (paper.out / name).write_text('{"theirs": 1}')
    assert_refused(paper(), "no run of ours")
    assert (paper.out / name).read_text() == '{"theirs": 1}'


def test_a_mended_claim_is_measured_anew_on_what_was_found(paper):
    assert paper()[0] == 0
    file = paper.folder / "tiny_paper.py"
    mended = file.read_text().replace("band=(1.0, 1.0)", "band=(2.0, 3.0)")
    file.write_text(mended.replace('"one", "One is one."', '"another", "One is two."'))
    del sys.modules["tiny_paper"]
    status, out, _ = paper()
    assert status == 0 and "first: measured anew" in out and "first: already done" in out
    assert paper.ran == ["first", "second"]
    assert paper.verdicts == {"first.another": "not reproduced", "second.two": "not reproduced"}
    assert "One is two" in (paper.out / "report.html").read_text()


def test_a_file_in_the_way(paper):
    paper.out.write_text("precious")
    assert_refused(paper(), "is a file")
    assert paper.out.read_text() == "precious"


def test_no_permission_and_no_space(paper, monkeypatch):
    import shutil

    with monkeypatch.context() as patch:
        patch.setattr("os.access", lambda path, mode: False)
        assert_refused(paper(), "not writable", "--out")
    with monkeypatch.context() as patch:
        usage = shutil.disk_usage(paper.folder)
        patch.setattr("shutil.disk_usage", lambda path: usage._replace(free=1000))
        assert_refused(paper(), "no space left", "--out")
    assert not paper.out.exists()


def test_space_that_runs_out_on_the_way(paper):
    status, _, err = paper(mode="full")
    assert status == 2 and "no space left" in err and err.count("\n") == 1
    assert paper("--resume")[0] == 0


@pytest.fixture
def ctrl_c():
    """Python's own handler, which a shell's background job starts without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(("mode", "code"), [("train", 143), ("term", 143), ("int", 130)])
def test_interrupted_and_resumed(paper, mode, code, ctrl_c):
    status, _, err = paper("--seed", "1", mode=mode)
    assert status == code
    assert f"python -m tiny_paper --seed 1 --out {paper.out} --resume" in err
    assert paper.verdicts == {"first.one": "reproduced", "second.two": "not run"}
    assert (paper.out / "report.html").exists()
    assert_refused(paper("--seed", "1"), "unfinished", "--resume")
    status, out, _ = paper("--seed", "1", "--resume")
    assert status == 0 and "first: already done" in out
    assert paper.ran == ["first", "second", "second"]


@pytest.mark.parametrize("where", ["_write_report", "_stopped"])
def test_more_ctrl_c_while_it_stops(paper, where, ctrl_c, monkeypatch):
    """While the report is written, and after: a line each time, and never a traceback."""
    stopped = importlib.import_module("ico.lab._launch")._stopped

    def interrupt(*arguments):
        if where == "_stopped":
            stopped(*arguments)
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(f"ico.lab._launch.{where}", interrupt)
    status, _, err = paper(mode="int")
    assert status == 130 and "--resume" in err and "stopped by SIGINT" in err
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    monkeypatch.undo()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, 0.01, 0.2])
def test_three_fast_ctrl_c_end_without_a_traceback(paper, seconds):
    process = paper.start(mode="wait")
    deadline = time.monotonic() + 200
    while "second" not in paper.ran and time.monotonic() < deadline:
        time.sleep(0.05)
    for _ in range(3):
        process.send_signal(signal.SIGINT)
        time.sleep(seconds)
    _, err = process.communicate(timeout=200)
    assert process.returncode == 130 and "--resume" in err and "Traceback" not in err


def test_killed_and_resumed(paper):
    process = paper.start(mode="kill")
    _, err = process.communicate(timeout=200)
    assert process.returncode == -signal.SIGKILL, err
    assert paper.verdicts["first.one"] == "reproduced"
    assert_refused(paper(), "unfinished", "--resume")
    # The lock file names a process that is dead, which stops nobody.
    assert paper("--resume")[0] == 0
    assert paper.ran == ["first", "second", "second"]


def test_a_crash_keeps_the_finished_studies(paper):
    with pytest.raises(RuntimeError, match="broken"):
        paper(mode="crash")
    assert "--resume" in paper.capsys.readouterr().err
    assert paper.verdicts == {"first.one": "reproduced", "second.two": "not run"}
    assert paper("--resume")[0] == 0


def test_a_broken_claim_does_not_cost_what_was_found(paper):
    with pytest.raises(RuntimeError, match="claim is broken"):
        paper(mode="claim")
    status, out, _ = paper("--resume")
    assert status == 0 and "second: already done" in out
    assert paper.ran == ["first", "second"]
    assert paper.verdicts == {"first.one": "reproduced", "second.two": "not reproduced"}


def test_training_errors_are_one_line(paper):
    status, _, err = paper(mode="nan")
    assert status == 2 and "error: NonFiniteLoss: " in err and err.count("\n") == 1


def test_what_the_user_can_mend_is_one_line(paper):
    status, _, err = paper(mode="data")
    assert status == 2 and err == "error: data: no such folder; download it first\n"
    assert (paper.out / "report.html").exists()


def test_other_file_errors_are_crashes(paper):
    with pytest.raises(FileNotFoundError, match="absent"):
        paper(mode="file")
    assert "--resume" in paper.capsys.readouterr().err


def test_two_processes_do_not_share_a_folder(paper):
    process = paper.start(mode="wait")
    try:
        deadline = time.monotonic() + 200
        while "second" not in paper.ran and time.monotonic() < deadline:
            time.sleep(0.05)
        status, _, err = paper("--resume")
        assert status == 2 and f"process {process.pid} is writing" in err
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=200)
        assert process.returncode == 143 and "--resume" in err
    finally:
        process.kill()
        process.communicate()
    assert paper("--resume")[0] == 0


def test_help_shows_the_defaults_of_the_preset(paper, capsys):
    with pytest.raises(SystemExit, match="0"):
        paper("--preset", "paper", "--help", out=False)
    shown = capsys.readouterr().out
    assert "(default: 99)" in shown and "Tasks a step." in shown
    assert "the second study" in shown and "three seconds" in shown
