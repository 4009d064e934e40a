"""`fit` by four processes joined over loopback is `fit` by one."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

_PROGRAM = """
import sys, time
number, processes, port, folder, how = sys.argv[1:]
number, processes = int(number), int(processes)
import jax, jax.numpy as jnp, numpy as np, optax
if processes > 1:
    jax.distributed.initialize("127.0.0.1:" + port, processes, number)
from ico import train

ROWS, WIDTH, STEPS = 16, 5, 60
truth = np.arange(1.0, WIDTH + 1, dtype=np.float32)

class Rows:
    '''Each process's own rows of batches that follow from their number.'''
    def __init__(self):
        self.at = 0
    def __next__(self):
        x = np.random.default_rng(self.at).normal(size=(ROWS, WIDTH)).astype(np.float32)
        self.at += 1
        if how == "stop" and self.at == 35:
            time.sleep(15)  # to be stopped here
        mine = slice(number * ROWS // processes, (number + 1) * ROWS // processes)
        return x[mine], (x @ truth)[mine]
    def position(self):
        return [number, self.at]
    def restore(self, position):
        assert position[0] == number
        self.at = position[1]

def sample(key):
    x = jax.random.normal(key, (ROWS, WIDTH))
    return x, x @ jnp.asarray(truth)

def loss(params, batch):
    x, y = batch
    return jnp.mean((x @ params["w"] - y) ** 2), {"first": jnp.abs(x).mean()}

optimizer = optax.adam(0.3)
state = train.init_state(lambda key: {"w": jnp.zeros(WIDTH)}, optimizer, jax.random.key(0))
config = train.LoopConfig(STEPS, steps_per_call=5, checkpoint_every=10, evaluate_every=20)
evaluate = lambda params: {"error": jnp.abs(params["w"] - truth).max()}
data = sample if how == "sampler" else Rows()
result = train.fit(
    train.make_step(loss, optimizer), state, data, config, directory=folder, evaluate=evaluate
)
np.savez(folder + f"/found-{number}.npz", w=np.asarray(result.params["w"]),
         **{k.replace("/", "_"): v for k, v in result.history.items()})
"""


def start(folder, processes, how, port):
    folder.mkdir(exist_ok=True)
    devices = f"--xla_force_host_platform_device_count={8 // processes}"
    environment = os.environ | {"XLA_FLAGS": devices, "JAX_PLATFORMS": "cpu"}
    words = [str(processes), str(port), str(folder), how]
    return [
        subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, str(number), *words],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(processes)
    ]


def finish(running, timeout=240):
    outs = [process.communicate(timeout=timeout)[0] for process in running]
    return [process.returncode for process in running], outs


def found(folder, processes):
    return [np.load(folder / f"found-{number}.npz") for number in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["sampler", "stream"])
def test_four_processes_train_as_one(how, tmp_path):
    port = 20_000 + (os.getpid() * 7 + len(how)) % 20_000
    for processes in (1, 4):
        codes, outs = finish(start(tmp_path / str(processes), processes, how, port))
        assert not any(codes), outs
    (one,), four = found(tmp_path / "1", 1), found(tmp_path / "4", 4)
    for other in four:
        for name in one.files:
            np.testing.assert_allclose(other[name], one[name], rtol=1e-5, atol=1e-6)
    assert one["loss"][-1] < one["loss"][0] / 100
    # One writer: a row a call.
    rows = [json.loads(x) for x in (tmp_path / "4" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(5, 61, 5))


@pytest.mark.slow
def test_they_stop_together_and_go_on(tmp_path):
    """One of them gets the signal; all save, and a second run ends as one never stopped."""
    port = 20_000 + (os.getpid() * 11) % 20_000
    codes, outs = finish(start(tmp_path / "whole", 4, "stream", port))
    assert not any(codes), outs
    running = start(tmp_path / "cut", 4, "stop", port + 1)
    until = time.monotonic() + 120
    while not list((tmp_path / "cut" / "checkpoints").glob("30")) and time.monotonic() < until:
        time.sleep(0.2)
    running[2].send_signal(signal.SIGTERM)
    codes, outs = finish(running)
    assert all(code != 0 for code in codes) and all("Interrupted" in out for out in outs), outs
    codes, outs = finish(start(tmp_path / "cut", 4, "stream", port + 2))
    assert not any(codes), outs
    for ours, right in zip(found(tmp_path / "cut", 4), found(tmp_path / "whole", 4), strict=True):
        for name in right.files:
            np.testing.assert_array_equal(ours[name], right[name])
    # The shards are four: another number of processes is told so.
    codes, outs = finish(start(tmp_path / "cut", 2, "stream", port + 3))
    assert all(codes) and "made by 4 processes" in outs[0], outs
