"""What is special in the experiment on trajectories: its labels, lines, averages and measures."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ico
from experiments.training_trajectories import (
    averaging_equivalence,
    quadratic_batches,
    selective,
    testbed,
    two_point,
)
from experiments.training_trajectories.paper import paper
from ico import lab, optim

SMOKE = paper.presets["smoke"]


@pytest.fixture
def run(tmp_path):
    return paper.run(SMOKE, directory=tmp_path)


def test_labels(run):
    """One in ten of those drawn anew is as before; poisoned ones are the next class."""
    run.config = dataclasses.replace(SMOKE, num_digits=800)
    clean = testbed.digits(run).train.labels
    share = np.mean(testbed.noisy_labels(run, 0.5) != clean[None])
    assert abs(share - 0.45) < 0.05
    labels, marked = testbed.poisoned(run)
    np.testing.assert_array_equal(labels != clean[None], marked)
    assert 0.03 < marked.mean() < 0.07
    chex.assert_trees_all_equal(labels[marked], (np.tile(clean, (2, 1))[marked] + 1) % 10)
    parts = testbed.digits(run)
    rows = {part.pixels.tobytes() for part in parts}
    assert [len(part.labels) for part in parts] == [800, 300, 600] and len(rows) == 3


def test_a_line_ends_at_twice_the_best_step_whatever_the_direction(monkeypatch):
    """On a quadratic: the best step along the gradient, found for its opposite as well."""
    center = jnp.array([3.0, -1.0])

    def loss(params, batch, model):
        return jnp.sum(jnp.array([1.0, 4.0]) * (params - center - batch) ** 2) / 2

    monkeypatch.setattr(testbed, "batch_loss", loss)
    params = jnp.zeros(2)
    pair = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    gradient = jax.grad(loss)(params, pair[0], None)
    best = float(gradient @ gradient / (gradient @ (jnp.array([1.0, 4.0]) * gradient)))
    for direction in (gradient, -gradient):
        line = quadratic_batches.along_line(None, params, direction, pair)
        np.testing.assert_allclose(line["place"][-1], 2 * best, rtol=0.2)
        found = quadratic_batches.fits(jax.tree.map(lambda leaf: leaf[None, None], line))
        chex.assert_trees_all_close(found["r2"], np.ones((1, 1)), atol=1e-6)


def test_halving_is_for_the_last_epochs(run):
    schedule = np.array(two_point.halved(run, 2).schedule)
    tail = 2 * testbed.steps_per_epoch(run)
    np.testing.assert_array_equal(schedule[-tail:], 0.5)
    np.testing.assert_array_equal(schedule[:-tail], 1.0)


def test_what_of_a_gain_is_explained():
    """One where a schedule has the average's loss, zero where it has the last iterate's."""
    last = np.random.default_rng(0).random((2, 5)) + 1
    records = lab.Records(
        [
            lab.record(run="last iterate", average="none", loss=last),
            lab.record(run="average", average="EMA", loss=last - 0.5),
            lab.record(run="schedule", average="EMA", loss=last - 0.4),
            lab.record(run="naive", average="EMA", loss=last),
        ]
    )
    values = [
        averaging_equivalence.explained(k, "EMA")(records).value for k in ("schedule", "naive")
    ]
    np.testing.assert_allclose(values, [0.8, 0.0], atol=1e-12)


@pytest.mark.slow
def test_identities_hold(run):
    assert averaging_equivalence.pathwise(run) < 1e-4


def test_scores_doubt_what_changes_late():
    logits = np.zeros((4, 1, 3, 10))
    logits[:, 0, :, 1] = 5
    logits[2, 0, 2, 7] = 9  # the third image changes its class late, the second early
    logits[0, 0, 1, 7] = 9
    found = selective.scores(logits)
    for name in ("disagreement", "disagreement, k = 2", "latest disagreement"):
        assert found[name][0, 2] > found[name][0, 1] > found[name][0, 0] == 0


class StartedError(Exception):
    """Raised in place of training."""


@pytest.mark.slow
def test_paper_preset_starts(tmp_path, monkeypatch):
    """ResNet-50: its first step has the right shapes, at its full sizes."""
    config = paper.presets["paper"]

    def only_shapes(step, state, data, config_of_loop, *, given, given_axes, **_):
        def once(state, given):
            return step(state, data(jax.random.fold_in(state.key, state.step), given), given)

        after, _ = jax.eval_shape(jax.vmap(once, in_axes=(0, given_axes)), state, given)
        chex.assert_trees_all_equal_shapes_and_dtypes(
            state._replace(key=None), after._replace(key=None)
        )
        assert config_of_loop.num_steps == config.num_steps
        raise StartedError

    few = ico.data.Images(np.zeros((4, 224, 224, 3), np.uint8), np.arange(4, dtype=np.int32))
    monkeypatch.setattr(testbed, "looked_at", lambda run: few)
    monkeypatch.setattr(ico.train, "fit", only_shapes)
    with pytest.raises(StartedError):
        quadratic_batches.base(paper.run(config, directory=tmp_path))


def test_averages_fit_any_number_of_steps():
    for num_steps in (8, 37, 1600):
        for average in averaging_equivalence.averages(num_steps).values():
            assert isinstance(average, optim.EMA | optim.SWA)
            np.testing.assert_allclose(average.weights(num_steps).sum(), 1)
