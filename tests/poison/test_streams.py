"""Clean batches and replay of a truth."""

import itertools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import poison, train

ROWS = np.arange(60, dtype=np.int32).reshape(10, 6)


def take(stream, count):
    return [batch.ids for batch in itertools.islice(stream, count)]


def test_a_pass_shows_every_row_once_in_an_order_of_its_own():
    stream = poison.CleanBatches(ROWS, 5, seed=3)
    assert isinstance(stream, train.Stream)
    passes = [np.concatenate(take(stream, 2)) for _ in range(3)]
    for shown in passes:
        np.testing.assert_array_equal(np.sort(shown[:, 0]), ROWS[:, 0])
    assert not np.array_equal(passes[0], passes[1])


def test_a_restored_stream_goes_on_where_it_was():
    stream, other = poison.CleanBatches(ROWS, 4, seed=1), poison.CleanBatches(ROWS, 4, seed=1)
    take(stream, 3)
    other.restore(stream.position())
    np.testing.assert_array_equal(take(stream, 4), take(other, 4))
    with pytest.raises(ValueError, match="10 rows"):
        poison.CleanBatches(ROWS, 11)


def test_a_truth_comes_by_at_its_rate_and_nothing_else_changes():
    def clean():
        return poison.CleanBatches(ROWS + 100, 5, seed=0)

    out = take(poison.replay(clean(), [7, 8], rate=0.2, seed=1), 400)
    told = np.array([ids[:, 0] == 7 for ids in out])
    assert 0.17 < told.mean() < 0.23
    for ids, old, here in zip(out, take(clean(), 400), told, strict=True):
        np.testing.assert_array_equal(ids[~here], old[~here])
    assert not np.any(np.array(take(poison.replay(clean(), [7], rate=0.0), 20)) == 7)
    with pytest.raises(ValueError, match="rate"):
        poison.replay(clean(), [7], rate=1.5)


def test_several_texts_are_injected_jointly():
    stream = poison.inject(poison.CleanBatches(ROWS, 4), [[1], [2, 2]], presentations=1, row=1)
    batch = next(stream)
    assert batch.ids[1].tolist() == [1, 0, 0, 0, 0, 0] and batch.mask[1].sum() == 1
    assert batch.ids[2].tolist() == [2, 2, 0, 0, 0, 0] and batch.mask[2].sum() == 2
    with pytest.raises(ValueError, match="do not fit"):
        next(poison.inject(poison.CleanBatches(ROWS, 2), [[1], [2], [3]], presentations=1))


CHANGES = {
    "injected": lambda clean: poison.inject(clean, [[1], [2]], presentations=3, spacing=4),
    "replayed": lambda clean: poison.replay(clean, [7, 8], rate=0.4, seed=5),
    "both": lambda clean: poison.replay(
        poison.inject(clean, [[1]], presentations=2, spacing=5), [7], rate=0.4
    ),
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("before", [0, 1, 6])
def test_a_changed_stream_is_restored_in_another_process(name, before):
    """Through JSON, as a checkpoint keeps it."""

    def stream():
        return CHANGES[name](poison.CleanBatches(ROWS, 4, seed=1))

    whole, other = stream(), stream()
    assert isinstance(whole, train.Stream)
    take(whole, before)
    position = json.loads(json.dumps(whole.position()))
    rest = take(whole, 9)
    other.restore(position)
    np.testing.assert_array_equal(take(other, 9), rest)


def test_a_training_on_an_injected_stream_resumes(tmp_path):
    """Killed between two presentations, it ends as if it had never been."""
    optimizer = optax.sgd(0.1)

    def loss(params, batch):
        return jnp.mean((params["w"][batch.ids] - 1) ** 2 * batch.mask), {}

    step = train.make_step(loss, optimizer)

    def fit(num_steps, directory):
        state = train.init_state(lambda key: {"w": jnp.zeros(100)}, optimizer, jax.random.key(0))
        clean = poison.CleanBatches(ROWS, 4, seed=1)
        stream = poison.inject(clean, [[70, 71, 70]], presentations=3, spacing=3)
        config = train.LoopConfig(num_steps, steps_per_call=4)
        return train.fit(step, state, stream, config, directory=directory)

    whole = fit(12, tmp_path / "whole")
    fit(4, tmp_path / "pieces")
    pieces = fit(12, tmp_path / "pieces")
    chex.assert_trees_all_equal(pieces.params, whole.params)
    np.testing.assert_array_equal(pieces.history["loss"], whole.history["loss"])


def test_a_changed_iterator_has_no_position(tmp_path):
    stream = poison.inject(iter(take_batches(2)), [[7]], presentations=1)
    for act in (stream.position, lambda: stream.restore({"clean": 0, "count": 0})):
        with pytest.raises(TypeError, match="give a Stream such as poison.CleanBatches"):
            act()
    assert next(stream).ids[0, 0] == 7


def take_batches(count):
    return list(itertools.islice(poison.CleanBatches(ROWS, 4), count))
