"""The stream with a text in it."""

import itertools

import numpy as np
import pytest

from ico import poison


def clean(count, rows=3, length=6):
    return [poison.as_batch([[i + 10] * length for _ in range(rows)], length) for i in range(count)]


@pytest.mark.parametrize(("presentations", "spacing"), [(1, 1), (3, 1), (2, 3)])
def test_text_stands_where_it_should_and_nothing_else_changes(presentations, spacing):
    batches = clean(9)
    out = list(
        poison.inject(batches, [[7, 8]], presentations=presentations, spacing=spacing, row=1)
    )
    where = [i for i, batch in enumerate(out) if batch.ids[1, 0] == 7]
    assert where == [spacing * i for i in range(presentations)]
    for i, (new, old) in enumerate(zip(out, clean(9), strict=True)):
        np.testing.assert_array_equal(batches[i].ids, old.ids)  # the source is left alone
        rows = [0, 2] if i in where else [0, 1, 2]
        np.testing.assert_array_equal(new.ids[rows], old.ids[rows])
    np.testing.assert_array_equal(out[0].ids[1], [7, 8, 0, 0, 0, 0])
    np.testing.assert_array_equal(out[0].mask[1], [1, 1, 0, 0, 0, 0])


def test_an_endless_stream_is_only_taken_as_needed():
    endless = poison.inject(itertools.cycle(clean(1)), [[7]], presentations=2)
    assert [batch.ids[0, 0] for batch in itertools.islice(endless, 4)] == [7, 7, 10, 10]


def test_nonsense_is_refused_at_once():
    for bad in ({"presentations": 0}, {"presentations": 1, "spacing": 0}):
        with pytest.raises(ValueError):
            poison.inject(clean(1), [[7]], **bad)
    with pytest.raises(ValueError):
        poison.inject(clean(1), [], presentations=1)
