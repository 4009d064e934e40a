"""Clean batches and replay of a truth."""

import itertools

import numpy as np
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
