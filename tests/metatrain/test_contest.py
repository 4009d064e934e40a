"""Contests by their rules, and meta-trainings that are begun anew."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import metatrain


def hill(setting):
    """1/2 |x|^2 from the setting plus one, in every coordinate."""
    return metatrain.Task(
        lambda key: (1.0 + setting) * jnp.ones(2), lambda key: 0.0, lambda x, _: 0.5 * jnp.sum(x**2)
    )


def contest(**changes):
    def measure(x, given):
        return {"loss": jnp.sum((x - given) ** 2), "x": x}

    rules = metatrain.Rules(3, 1, 2, 2, test_runs=4, tests_of_a_run=2, side_by_side=2)

    def key(name):
        return jax.random.key(len(name))

    sides = {"valid": jnp.zeros(2), "test": jnp.ones(2)} | changes
    return metatrain.Contest(hill, measure, key, 2, 1, rules=rules, **sides)


def gradient(schedule, horizon, theta):
    return optax.sgd(lambda count: theta * schedule(count))


def test_an_entrant_is_tuned_on_valid_and_raced_on_test():
    """With theta 1/2 a rate of two reaches the optimum of `valid` in one step."""
    here = contest()
    entrant = metatrain.Entrant(gradient, 1.0, theta=0.5)
    tuned = here.tuned(entrant, 1)
    assert tuned.rate == 2 and tuned.loss == pytest.approx(0, abs=1e-9)
    found = here.race(entrant, 2, tuned.rate, 0)
    assert found["x"].shape == (4, 2, 2)  # runs, evaluations along them, coordinates
    np.testing.assert_allclose(found["loss"], 2, atol=1e-6)  # from zero to `test`


@pytest.mark.parametrize(("unseen", "starts"), [(False, [1, 2, 1, 2]), (True, [3, 3, 3, 3])])
def test_runs_start_from_their_settings(unseen, starts):
    found = contest().race(metatrain.Entrant(gradient, 0.0, theta=0.0), 2, 1.0, 0, unseen)
    np.testing.assert_allclose(found["x"][:, -1, 0], starts)


def test_nothing_is_tuned_without_a_rate():
    tuned = contest().tuned(metatrain.Entrant(gradient, 0.0), 5)
    assert tuned.rate == 1 and np.isnan(tuned.loss) and not tuned.edge


def test_a_lost_run_counts_as_the_worst():
    losses = np.random.default_rng(0).uniform(0, 1, (6, 5)).astype(np.float32)
    losses[1, 2], losses[4] = np.nan, 100.0
    found = metatrain.counted(losses, 3.0)
    np.testing.assert_array_equal(found[[1, 4]], 3)
    np.testing.assert_array_equal(found[[0, 2, 3, 5]], losses[[0, 2, 3, 5]])


def test_hand_designed_optimizers_take_the_schedule():
    """Gradient descent among them moves by the rate of each step."""
    entrant = metatrain.by_hand(optax.sgd, 0.1)
    optimizer = entrant.build(lambda count: 2.0 + count, 9, None)
    state, steps = optimizer.init(jnp.ones(())), []
    for _ in range(2):
        update, state = optimizer.update(jnp.ones(()), state)
        steps.append(float(update))
    assert steps == [-2, -3] and entrant.rate == 0.1
    assert all(one.rate > 0 for one in metatrain.hand_designed().values())


def test_entrants_of_one_program_share_it():
    here = contest()
    one, other = (metatrain.Entrant(gradient, 1.0, theta=t, program=("gd",)) for t in (0.1, 0.2))
    assert here.racer(one, 1) is here.racer(other, 1)
    assert here.racer(one, 1) is not here.racer(one, 2)
    assert here.racer(metatrain.Entrant(lambda *_: optax.sgd(0.1), 0.0), 1) is not here.racer(
        one, 1
    )


@pytest.mark.parametrize(
    ("losses", "draws", "rate"),
    [
        ([[2, 1]], [0], 0),
        ([[1, 2], [2, 2]], [0, 1], 1 / 2),
        ([[1, np.nan], [1, 3], [2, 1]], [0, 1, 2], 2 / 3),
        ([[1, 3], [1, 2], [1, np.nan]], [2, 0, 1], 1),
    ],
)
def test_a_failed_meta_training_is_begun_anew(losses, draws, rate):
    """At most twice; where all fail the best of them stands last."""

    def train(draw):
        learned = metatrain.Learned(None, None, {"loss": np.asarray(losses[draw], float)})
        return metatrain.MetaTrained(learned, "", draw, 0.0, 0.0)

    found = metatrain.attempts(train)
    assert [each.draw for each in found] == draws
    assert all(each.failure_rate == pytest.approx(rate) for each in found)
