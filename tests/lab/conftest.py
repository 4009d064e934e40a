"""A tiny paper of two studies, and its command line."""

import json
import os
import subprocess
import sys

import pytest

PAPER = '''
"""On tiny papers.

That one is one.
"""
import os, signal, time
import numpy as np
from ico import lab

class Config(lab.Config):
    # Tasks a step.
    batch_size: lab.Count = 8
    sizes: lab.Distinct[lab.Count] = (1, 2)

paper = lab.Paper(
    "tiny", authors="A. Uthor", year=2022, arxiv="0000.00000", config=Config,
    smoke={"batch_size": 2}, paper={"batch_size": 99},
    cost={"smoke": "a second", "cpu": "two seconds", "paper": "three seconds"},
)

@paper.study("the first study")
def first(run):
    _log("first")
    yield lab.record(one=np.asarray(1.0))

first.claim("one", "One is one.", "Eq. 1", band=(1.0, 1.0), of=lab.exact("one"))

@paper.study("the second study")
def second(run):
    _log("second")
    mode = os.environ.get("TINY", "")
    if mode == "crash":
        raise RuntimeError("something is broken")
    if mode == "full":
        raise OSError(28, "No space left on device", str(run.directory))
    if mode == "data":
        raise lab.InputError("data", "no such folder; download it first")
    if mode == "file":
        open(run.directory / "absent")
    if mode in ("term", "int", "kill"):
        os.kill(os.getpid(), getattr(signal, "SIG" + mode.upper()))
        time.sleep(30)
    if mode == "train":
        from ico.train import Interrupted
        raise Interrupted("SIGTERM", 7, run.directory)
    if mode == "nan":
        from ico.train import NonFiniteLoss
        raise NonFiniteLoss(7, None, {"loss": float("nan")}, None)
    if mode == "wait":
        time.sleep(300)
    yield lab.record(two=[1.5, 2.5] if mode != "claim" else [0.0])

@second.claim("two", "Two is large.", "Eq. 2", band=(3.0, None), unit="ratio")
def _two(records):
    if os.environ.get("TINY") == "claim":
        raise RuntimeError("the claim is broken")
    return lab.Measurement(2.0, (1.5, 2.5), 3, 10)

def _log(name):
    with open(os.environ["TINY_LOG"], "a") as log:
        log.write(name + "\\n")

if __name__ == "__main__":
    raise SystemExit(paper.main())
'''


class Paper:
    """Runs the tiny paper, in this process or in one of its own."""

    def __init__(self, folder, environment, monkeypatch, capsys):
        (folder / "tiny_paper.py").write_text(PAPER)
        self.log, self.out, self.folder = folder / "log", folder / "out", folder
        self.environment = environment | {"TINY_LOG": str(self.log)}
        self.environment["PYTHONPATH"] += os.pathsep + str(folder)
        self.capsys, self.monkeypatch = capsys, monkeypatch
        monkeypatch.setenv("TINY_LOG", str(self.log))
        monkeypatch.syspath_prepend(folder)
        # The cache belongs to a process; the tests have their own.
        monkeypatch.setattr("ico.train.enable_compilation_cache", lambda: None)
        monkeypatch.setattr("ico.train.compile_quickly", lambda: None)
        for name in [name for name in sys.modules if name.startswith("tiny_paper")]:
            monkeypatch.delitem(sys.modules, name)

    def __call__(self, *arguments, mode="", out=True):
        import tiny_paper

        self.monkeypatch.setenv("TINY", mode)
        words = [*arguments, *(["--out", str(self.out)] if out else [])]
        status = tiny_paper.paper.main(words)
        captured = self.capsys.readouterr()
        return status, captured.out, captured.err

    def start(self, *arguments, mode=""):
        command = [sys.executable, "-m", "tiny_paper", *arguments, "--out", str(self.out)]
        return subprocess.Popen(
            command,
            env=self.environment | {"TINY": mode},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    @property
    def ran(self):
        return self.log.read_text().split() if self.log.exists() else []

    @property
    def verdicts(self):
        claims = json.loads((self.out / "results.json").read_text())["claims"]
        return {claim["id"]: claim["verdict"] for claim in claims}


@pytest.fixture
def paper(tmp_path, environment, monkeypatch, capsys):
    return Paper(tmp_path, environment, monkeypatch, capsys)


def assert_refused(result, *words):
    status, out, err = result
    assert status == 2
    assert err.startswith("error: ") and err.count("\n") == 1 and not out
    for word in words:
        assert word in err
