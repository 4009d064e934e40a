"""Tasks from a table: what of it a task sees, found by changing the table and looking again."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico.tasks import Tabular, tabular

KEY = jax.random.key(0)
ROWS, COLUMNS = 30, 4
CONFIG = Tabular(batch_size=40, num_context=7, num_queries=2)
sample = jax.jit(tabular, static_argnums=2)


def random_table(seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((ROWS, COLUMNS)) * [1, 5, 0.2, 3] + [0, 7, -2, 1]).astype("float32")


def pairs(episode):
    """All rows of all tasks, context first: x [B, N + Q, D] and y [B, N + Q]."""
    prompt, y_query = jax.device_get(episode)
    x = np.concatenate([prompt.x, prompt.x_query], axis=1)
    return x, np.concatenate([prompt.y, y_query], axis=1)[..., 0]


def seen_rows():
    """[B, N + Q, R]: whether a place of a task changes when a row of the table does.

    A row outside a task changes every place of it (the standardisation), one inside only its own.
    """
    table = random_table()
    y = pairs(sample(KEY, table, CONFIG))[1]
    moved = (table + 9 * (np.arange(ROWS) == r)[:, None] for r in range(ROWS))
    return np.stack([pairs(sample(KEY, t, CONFIG))[1] != y for t in moved], axis=-1)


def target_columns(table, config=CONFIG):
    """[B]: the column a task predicts, which alone, when it is bent, bends the labels."""
    y = pairs(sample(KEY, table, config))[1]
    bent = [
        pairs(sample(KEY, np.where(np.arange(COLUMNS) == c, table**3, table), config))[1]
        for c in range(COLUMNS)
    ]
    changed_CB = np.stack([(b != y).any(1) for b in bent])
    assert (changed_CB.sum(0) == 1).all()
    return changed_CB.argmax(0)


def test_shapes():
    episode = sample(KEY, random_table(), CONFIG)
    shapes = [leaf.shape for leaf in jax.tree.leaves(episode)]
    assert shapes == [(40, 7, 3), (40, 7, 1), (40, 2, 3), (40, 2, 1)]


def test_a_row_inside_changes_no_other_row_and_rows_do_not_repeat():
    changed_BPR = seen_rows()
    places = changed_BPR.sum(1)
    # Each of the 9 rows inside changes one place, each of the 21 outside all nine.
    assert ((places == 1).sum(1) == 9).all()
    assert ((places == 9).sum(1) == ROWS - 9).all()
    inside_BPR = changed_BPR & (places == 1)[:, None]
    assert (inside_BPR.sum(2) == 1).all(), "two places of a task show the same row"


def test_values_are_those_of_the_table_standardised_by_the_rows_outside():
    changed_BPR = seen_rows()
    table = random_table().astype(np.float64)
    x, y = pairs(sample(KEY, table.astype(np.float32), CONFIG))
    targets = target_columns(random_table())
    for b, target in enumerate(targets):
        outside = changed_BPR[b].all(0)
        rows = (changed_BPR[b] & ~outside).argmax(1)
        standard = (table[rows] - table[outside].mean(0)) / table[outside].std(0)
        np.testing.assert_allclose(y[b], standard[:, target], atol=1e-4)
        others = np.delete(standard, target, axis=1) / np.sqrt(12)
        # Which column stands where is the sampler's choice, but it is the same for all rows.
        np.testing.assert_allclose(np.sort(x[b].sum(1)), np.sort(others.sum(1)), atol=1e-4)
        match = np.abs(x[b][:, :, None] - others[:, None]).max(0) < 1e-4
        assert (match.sum(0) == 1).all() and (match.sum(1) == 1).all()


def test_every_row_is_as_likely():
    inside = (seen_rows().sum(1) == 1).mean(0)
    assert np.abs(inside - 9 / ROWS).max() < 4.5 * np.sqrt(0.3 * 0.7 / 40)


def test_every_column_is_as_likely_the_target():
    targets = target_columns(random_table(), Tabular(3000, 5, 1))
    share = np.bincount(targets, minlength=COLUMNS) / targets.size
    assert np.abs(share - 1 / COLUMNS).max() < 4 * np.sqrt(3 / 16 / targets.size)


def test_input_std_scales_inputs_only():
    table = random_table()
    x, y = pairs(sample(KEY, table, Tabular(30, 5, 1, input_std=1.0)))
    x_half, y_half = pairs(sample(KEY, table, Tabular(30, 5, 1, input_std=0.5)))
    np.testing.assert_allclose(x_half, x / 2, rtol=1e-6)
    np.testing.assert_array_equal(y_half, y)


def test_same_key_same_batch_of_jax_or_numpy_tables():
    table = random_table()
    one, again = tabular(KEY, table, CONFIG), sample(KEY, jnp.asarray(table), CONFIG)
    chex.assert_trees_all_close(one, again, rtol=1e-5)
    chex.assert_trees_all_equal(again, sample(KEY, table, CONFIG))
    other = sample(jax.random.key(1), table, CONFIG)
    assert (other.y_query != one.y_query).mean() > 0.9


@pytest.mark.parametrize(
    ("shape", "message"),
    [((10, 4), "task of 9 rows needs a table of 11, not 10"), ((30, 1), "target column, got 1")],
)
def test_tables_too_small(shape, message):
    with pytest.raises(ValueError, match=message):
        tabular(KEY, jnp.ones(shape), CONFIG)


@pytest.mark.parametrize("whiten", [False, True])
def test_a_constant_column_is_zero_and_all_stays_finite(whiten):
    table = random_table()
    table[:, 2] = 7
    episode = sample(KEY, table, dataclasses.replace(CONFIG, whiten=whiten))
    chex.assert_tree_all_finite(episode)
    x, y = pairs(episode)
    constant = (y == 0).all(1)  # the tasks whose target it is
    assert 0 < constant.sum() < len(y)
    if not whiten:
        assert ((x[~constant] == 0).all(1).sum(1) == 1).all()


def test_directions_without_variance_stay_small_when_whitened():
    """Two columns are nearly equal: their difference is not blown up to size one."""
    table = random_table()
    table[:, 1] = table[:, 0] + 1e-4 * table[:, 1]
    config = Tabular(60, 7, 2, input_std=1.0, whiten=True)
    x, _ = pairs(sample(KEY, table, config))
    least = np.linalg.eigvalsh(np.einsum("bnd,bne->bde", x, x) / x.shape[1])[:, 0]
    assert np.sort(least)[:10].max() < 1e-2 and np.abs(x).max() < 20


@pytest.mark.parametrize("field", ["batch_size", "num_context", "num_queries"])
def test_config_names_the_field_that_is_wrong(field):
    with pytest.raises(ValueError, match=f"{field} must be at least 1, not 0"):
        Tabular(**{field: 0})


def test_chosen_inputs_are_other_columns_and_change_from_task_to_task():
    config = Tabular(200, 5, 1, input_std=1.0, num_inputs=2, target_std=3.0)
    x, y = pairs(sample(KEY, random_table(), config))
    assert x.shape == (200, 6, 2)
    plain_x, plain_y = pairs(sample(KEY, random_table(), Tabular(200, 5, 1, input_std=1.0)))
    np.testing.assert_allclose(y, 3 * plain_y, rtol=1e-5)
    match = np.abs(x[:, :, :, None] - plain_x[:, :, None]).max(1) < 1e-5  # [B, D, C - 1]
    assert (match.sum(2) == 1).all(), "an input is not one of the other columns"
    chosen = match.argmax(2)
    assert (chosen[:, 0] != chosen[:, 1]).all()
    assert len({tuple(sorted(pair)) for pair in chosen.tolist()}) == 3


def test_whitened_inputs_are_uncorrelated():
    """Over a table of strongly correlated columns, by the rows outside the task."""
    rng = np.random.default_rng(0)
    table = rng.standard_normal((2000, 5)) + 2 * rng.standard_normal((2000, 1))
    table = table.astype("float32")
    config = Tabular(300, 20, 1, input_std=1.0)
    x, _ = pairs(sample(KEY, table, dataclasses.replace(config, whiten=True)))
    plain, _ = pairs(sample(KEY, table, config))
    far, near = (
        np.abs(np.einsum("bnd,bne->de", a, a) / (300 * 21) - np.eye(4)).max() for a in (plain, x)
    )
    assert near < 0.1 < 0.7 < far
    assert np.abs(x).max() < 50
