"""A run killed at any moment, and run again, ends as if nothing had happened."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

PROGRAM = Path(__file__).with_name("program.py")


def start(environment, directory, kind, seconds_per_call):
    arguments = [sys.executable, PROGRAM, directory, kind, str(seconds_per_call)]
    return subprocess.Popen(
        arguments, env=environment | {"JAX_PLATFORMS": "cpu"}, stderr=subprocess.PIPE, text=True
    )


def wait_for_checkpoint(process, directory, step, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()
        names = [path.name for path in (directory / "checkpoints").glob("*")]
        if any(name.isdigit() and int(name) >= step for name in names):
            return
        time.sleep(0.005)
    raise TimeoutError(f"no checkpoint of step {step}")


def rows(directory):
    lines = (directory / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("kind", ["sampler", pytest.param("stream", marks=pytest.mark.slow)])
def test_killed_and_resumed_equals_uninterrupted(kind, program, environment, tmp_path):
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    expected = program.run(whole, kind)

    process = start(environment, pieces, kind, 0.03)
    wait_for_checkpoint(process, pieces, 40)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (pieces / "final.npz").exists()

    if kind == "stream":
        process = start(environment, pieces, kind, 0.05)
        wait_for_checkpoint(process, pieces, 100)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 1
        last = stderr.splitlines()[-1]
        assert "stopped by SIGTERM after step" in last
        assert "--resume" in last
        assert str(pieces) in last
        stopped = int(last.split("after step ")[1].split(";")[0])
        assert (pieces / "checkpoints" / str(stopped)).is_dir()

    process = start(environment, pieces, kind, 0)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr

    state = expected.state._replace(key=jax.random.key_data(expected.state.key))
    with np.load(pieces / "final.npz") as final:
        for name, leaf in zip(final.files, jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(final[name], np.asarray(leaf))
    assert rows(pieces) == rows(whole)
    # The complete run comes back at once, with the whole history.
    again = program.run(pieces, kind)
    assert again.history.keys() == expected.history.keys()
    for name, values in expected.history.items():
        np.testing.assert_array_equal(again.history[name], values)


def test_second_ctrl_c_interrupts_at_once(program):
    from ico.train._signals import StopSignal

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), StopSignal() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.name == "SIGINT"
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_longer_run_goes_on_from_a_complete_one(program, tmp_path):
    import dataclasses

    short = dataclasses.replace(program.CONFIG, num_steps=100)
    program.run(tmp_path / "a", "stream", short)
    state, history = program.run(tmp_path / "a", "stream")
    expected = program.run(tmp_path / "b", "stream")
    np.testing.assert_array_equal(state.params["w"], expected.state.params["w"])
    np.testing.assert_array_equal(history["loss"], expected.history["loss"])
