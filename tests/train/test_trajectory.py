"""A trajectory is the training's own iterates, whether it was killed or not."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico.train import CheckpointError, LoopConfig, Trajectory, fit, init_state, make_step

STEPS = (0, 2, 4, 9)


def loss(params, batch):
    return jnp.sum((params["a"] - batch) ** 2) + jnp.sum(params["b"]) ** 2, {}


def init(key):
    return {"a": jax.random.normal(key, (3,)), "b": jnp.ones((2, 2))}


def sampler(key):
    return jax.random.normal(key, (3,))


def predict(params):
    return {"sum": params["a"].sum() + params["b"].sum()}


STEP = make_step(loss, optax.sgd(0.1))


def train(num_steps, seeds=True, **options):
    key = jax.random.split(jax.random.key(0), 2) if seeds else jax.random.key(0)
    state = init_state(init, optax.sgd(0.1), key)
    config = LoopConfig(num_steps, steps_per_call=5)
    return fit(STEP, state, sampler, config, progress=False, **options)


@pytest.mark.parametrize("seeds", [True, False])
def test_rows_are_the_iterates(seeds):
    trajectory = Trajectory(STEPS, predict)
    whole = train(9, seeds, trajectory=trajectory)
    rows = trajectory.params()
    assert rows.shape == (4, 2, 7) if seeds else (4, 7)
    last = trajectory.unravel(rows[-1, 1] if seeds else rows[-1])
    wanted = jax.tree.map(lambda leaf: leaf[1] if seeds else leaf, whole.params)
    jax.tree.map(np.testing.assert_array_equal, last, wanted)
    np.testing.assert_allclose(trajectory.predictions()["sum"], rows.sum(-1), rtol=1e-5)
    four = train(4, seeds)
    np.testing.assert_array_equal(
        trajectory.params([4])[0][..., :3], four.params["a"].astype(np.float32)
    )


def test_a_resumed_run_has_the_same(tmp_path):
    whole = Trajectory(STEPS, directory=tmp_path / "whole")
    train(9, trajectory=whole)
    train(4, directory=tmp_path / "run", trajectory=Trajectory(STEPS, directory=tmp_path / "a"))
    again = Trajectory(STEPS, directory=tmp_path / "a")
    assert again.recorded() == (0, 2, 4)
    train(9, directory=tmp_path / "run", trajectory=again)
    np.testing.assert_array_equal(again.params(), whole.params())


def test_what_cannot_be_had_is_said():
    with pytest.raises(ValueError, match="at most 2 steps"):
        train(9, trajectory=Trajectory(STEPS, max_bytes=2 * 2 * 7 * 4))
    with pytest.raises(ValueError, match="at least 0"):
        Trajectory([-1])
    with pytest.raises(CheckpointError, match="no step"):
        Trajectory(STEPS).params([2])
    with pytest.raises(ValueError, match="without `predict`"):
        Trajectory(STEPS).predictions()
    with pytest.raises(ValueError, match="has begun"):
        Trajectory(STEPS).unravel(np.zeros(7))
