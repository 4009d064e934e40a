"""A run to be killed: `python program.py DIRECTORY KIND [SECONDS_PER_CALL]`."""

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ico import train
from ico.train import _log

CONFIG = train.LoopConfig(
    num_steps=205, steps_per_call=10, checkpoint_every=20, keep=2, evaluate_every=50
)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(1e-2))
TARGET = np.linspace(-1, 1, 4, dtype=np.float32)[:, None]


class Rows:
    """A Stream whose batch n is drawn from seed n."""

    def __init__(self):
        self.next = 0

    def __next__(self):
        x = np.random.default_rng(self.next).normal(size=(8, 4)).astype(np.float32)
        self.next += 1
        return {"x": x, "y": x @ TARGET}

    def position(self):
        return {"next": self.next}

    def restore(self, position):
        self.next = position["next"]


def sample(key):
    x = jax.random.normal(key, (8, 4))
    return {"x": x, "y": x @ TARGET}


def init_params(key):
    return {"w": jax.random.normal(key, (4, 1)), "b": jnp.zeros(1)}


def loss_fn(params, batch):
    error = batch["x"] @ params["w"] + params["b"][None] - batch["y"]
    return jnp.mean(error**2), {"mae": jnp.mean(jnp.abs(error))}


def evaluate(params):
    return {"distance": jnp.linalg.norm(params["w"] - TARGET)}


STEP = train.make_step(loss_fn, OPTIMIZER)


def new_state(seeds=2, seed=0):
    key = jax.random.key(seed)
    return train.init_state(init_params, OPTIMIZER, jax.random.split(key, seeds) if seeds else key)


def run(directory, kind, config=CONFIG):
    data = Rows() if kind == "stream" else sample
    return train.fit(STEP, new_state(), data, config, directory=directory, evaluate=evaluate)


def main(directory, kind, seconds_per_call="0"):
    add = _log.MetricLog.add

    def slow_add(self, step, metrics):
        time.sleep(float(seconds_per_call))
        add(self, step, metrics)

    _log.MetricLog.add = slow_add
    try:
        state, _ = run(directory, kind)
    except train.Interrupted as error:
        sys.exit(f"error: {error}")
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    np.savez(Path(directory) / "final.npz", *map(np.asarray, leaves))


if __name__ == "__main__":
    main(*sys.argv[1:])
