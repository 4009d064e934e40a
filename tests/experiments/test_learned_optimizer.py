"""The contest of learned_optimizer: its problems, its races, its meta-trainings."""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.learned_optimizer import contest, in_distribution, learners, problems, races
from experiments.learned_optimizer.paper import paper
from ico import lab, metatrain, optim
from ico.data import Images

SMOKE = paper.presets["smoke"]


def at_rest(rate, horizon, theta):
    return optax.sgd(0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return paper.run(SMOKE, directory=tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def digits(run):
    return problems.problem(run, "digits")


def test_problems_have_three_parts_and_new_heads(run, digits):
    parts = [digits.train, digits.valid, digits.test]
    rows = [{row.tobytes() for row in np.asarray(part.pixels)} for part in parts]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    assert all(set(np.asarray(part.labels)) <= set(range(5)) for part in parts)
    a, b = (problems.task_of(digits, 0).init(jax.random.key(i)) for i in range(2))
    other = problems.task_of(digits, 1).init(jax.random.key(0))
    assert (a["dense_0"]["kernel"] == b["dense_0"]["kernel"]).all()
    assert (a["head"]["kernel"] != b["head"]["kernel"]).any()
    assert (a["dense_0"]["kernel"] != other["dense_0"]["kernel"]).any()
    new = problems.problem(run, "digits", new_data=True)
    chex.assert_trees_all_equal(new.bodies, digits.bodies)
    others = {row.tobytes() for row in np.asarray(new.test.pixels)}
    assert others.isdisjoint(set().union(*rows))


def test_optimizers_are_meta_trained_on_known_networks_alone(digits):
    assert (digits.known, digits.unseen) == (2, 2)
    sample = problems.family(digits).sample
    assert {int(sample(jax.random.key(i))) for i in range(20)} == {0, 1}


def test_nothing_is_tuned_on_runs_or_images_or_networks_of_the_test(run, digits):
    config = dataclasses.replace(
        SMOKE,
        num_rates=9,
        first_runs=1,
        second_candidates=6,
        second_runs=3,
        test_runs=6,
        tests_of_a_run=2,
    )
    of = contest.contest_on(paper.run(config, directory=run.directory), digits)
    entrant, calls = metatrain.Entrant(lambda rate, *_: optax.sgd(rate), 0.1), []

    def watched(program):
        def race(peaks, kinds, horizon, keys, networks, images, theta):
            seen = {key.tobytes() for key in np.asarray(jax.random.key_data(keys))}
            calls.append((seen, set(np.asarray(networks).tolist()), images))
            return program(peaks, kinds, horizon, keys, networks, images, theta)

        return race

    for num_tests in (1, config.tests_of_a_run):
        program = of.racer(entrant, num_tests)
        of._racers[entrant.build, num_tests] = watched(program)
    tuned = of.tuned(entrant, 4)
    of.race(entrant, 4, tuned.rate, tuned.schedule)
    of.race(entrant, 4, tuned.rate, tuned.schedule, unseen=True)
    *rounds, second, test, unseen = calls
    first = set().union(*(keys for keys, *_ in rounds))
    assert [len(first), len(second[0]), len(test[0]), len(unseen[0])] == [1, 3, 6, 6]
    assert not (first | second[0]) & (test[0] | unseen[0])
    networks = [{0}, {0, 1}, {0, 1}, {2, 3}]
    assert [one[1] for one in (rounds[0], second, test, unseen)] == networks
    assert all(one[2] is digits.valid for one in (*rounds, second))
    assert test[2] is digits.test and unseen[2] is digits.test


@pytest.mark.slow
def test_a_race_is_the_training_it_says(run, digits):
    """Against a plain loop, from the unseen networks."""
    entrant = metatrain.Entrant(lambda rate, *_: optax.adam(rate), 1e-2)
    found = contest.contest_on(run, digits).race(entrant, 5, 0.01, 1, unseen=True)["losses"][:, -1]
    chex.assert_shape(found, (SMOKE.test_runs, len(digits.test.labels)))
    keys = jax.random.split(run.key("digits/test/unseen"), SMOKE.test_runs)
    for i in range(2):
        task = problems.task_of(digits, 2 + i)
        optimizer = optax.adam(metatrain.schedule(1, 0.01, 5))
        params, _, _ = metatrain.run(optimizer, task, keys[i], 5)
        np.testing.assert_allclose(found[i].mean(), task.test(params), rtol=1e-4)


def test_a_run_that_diverged_counts_as_twice_a_guess(digits):
    losses = np.random.default_rng(0).uniform(0, 1, (6, 5)).astype(np.float32)
    losses[1, 2], losses[4] = np.nan, 100.0
    found = contest.final_losses(losses, digits)
    np.testing.assert_allclose(found[[1, 4]], 2 * np.log(5))
    np.testing.assert_array_equal(found[[0, 2, 3, 5]], losses[[0, 2, 3, 5]])


def known_result(run, of, name, entrant, horizon, unseen):
    """The loss in its tuning is its theta."""
    tuned = metatrain.Tuned(0.1, 1, False, entrant.theta, np.ones(1), np.ones((4, 1)))
    losses = entrant.theta + np.arange(18.0).reshape(6, 3)
    return tuned, {"curve": losses[:2, 0], "accuracy": losses[:, 0], "loss": losses}


def test_records_name_the_best_by_its_tuning_and_average_over_networks(run, digits, monkeypatch):
    monkeypatch.setattr(races, "result", known_result)
    entrants = {
        "worse": metatrain.Entrant(at_rest, 0.1, theta=2.0),
        "better": metatrain.Entrant(at_rest, 0.1, theta=1.0),
        "learned": metatrain.Entrant(at_rest, 0.0, theta=0.5, role=races.OURS, failure_rate=0.25),
    }
    three = digits._replace(known=1)  # three of the four networks are unseen
    found = lab.Records(races.race(run, three, entrants, 8, unseen=True))
    roles = {one["optimizer"]: one["role"] for one in found}
    assert roles == {"worse": "by hand", "better": races.BEST, "learned": races.OURS}
    losses = np.arange(18.0).reshape(6, 3)  # run i is from network i % 3
    np.testing.assert_allclose(
        found.one(optimizer="worse")["loss"], 2 + (losses[:3] + losses[3:]) / 2
    )
    np.testing.assert_array_equal(found.one(optimizer="worse")["step"], [4, 8])
    assert found.one(role=races.OURS)["schedule"] == "its own"
    claim = races.against_best()(found).within((None, 0.85))
    means = losses.mean() + np.array([0.5, 1.0])
    assert float(claim.value) == pytest.approx(means[0] / means[1])
    assert (claim.n_seeds, claim.n_tasks, claim.failure_rate) == (1, 3, 0.25)
    first, *_, last = races.rows(found)
    assert first["optimizer"] == "learned" and first["L3RS over it"] is None
    assert last["optimizer"] == "worse" and last["L3RS over it"] < 1


@pytest.mark.slow  # a compilation for each
def test_every_ablation_changes_the_optimizer():
    shapes = {"a": {"kernel": jnp.ones((2, 3))}, "b": {"kernel": jnp.ones((3, 1))}}
    grads = {"a": {"kernel": 1 + jnp.arange(6.0).reshape(2, 3)}, "b": {"kernel": -jnp.ones((3, 1))}}

    def second_update(name):
        learner = learners.learner_of("l3rs", name)
        theta = jax.tree.map(
            lambda a: a + 0.3 * jnp.cos(jnp.arange(a.size)).reshape(a.shape),
            learner.init(jax.random.key(0), shapes),
        )
        optimizer, params = learner.build(theta, 5), shapes
        state = optimizer.init(params)
        for size in (1.0, 0.5):
            some = jax.tree.map(lambda g, size=size: size * g, grads)
            updates, state = optimizer.update(some, state, params, value=jnp.ones(()))
            params = optax.apply_updates(params, updates)
        return np.concatenate([np.ravel(a) for a in jax.tree.leaves(updates)])

    updates = [second_update(name) for name in ("", *learners.ABLATIONS)]
    for i, one in enumerate(updates):
        assert all(np.abs(one / other - 1).max() > 1e-3 for other in updates[:i])
    whole, universal = (learners.learner_of("l3rs", name) for name in ("", "no embedding"))
    assert universal.init(jax.random.key(0), shapes)["embedding"].shape[0] == 1
    assert whole.init(jax.random.key(0), shapes)["embedding"].shape[0] == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"baselines": ("nothing",)}, "baselines.*nothing"),
        ({"ablations": ("nothing",)}, "ablations.*nothing"),
        ({"tasks": ("nothing",)}, "tasks.*nothing"),
        ({"rivals": ("nothing",)}, "rivals.*nothing"),
        ({"tasks": ("digits", "digits")}, "tasks.*twice"),
        ({"ablation_task": "fashion"}, "ablation_task"),
        ({"longer": (1,)}, "longer must be at least 2"),
        ({"test_runs": 5}, "multiple of unseen_networks"),
        ({"meta_horizons": (4, 2)}, "meta_horizons must rise"),
        ({"estimator": "persistent"}, "meta_horizons must rise"),
        ({"tests_of_a_run": 5}, "horizon must be at least"),
        ({"image_size": 9}, "image_size must be even"),
    ],
)
def test_settings_that_make_no_sense_are_named(changes, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMOKE, **changes).validate()


@pytest.mark.slow
def test_a_meta_training_is_found_again(run, digits, monkeypatch):
    """Saved for `ico.optim.load`, too."""
    config = dataclasses.replace(SMOKE, meta_steps=3, meta_horizons=(4, 4))
    run = paper.run(config, directory=run.directory)
    first = learners.attempts(run, "l3rs", {"digits": digits})[-1]
    assert len(first.learned.history["loss"]) and first.seconds > 0
    assert first.inner_steps == 3 * 2 * 2 * 4  # outer steps, pairs, tasks, inner steps
    with monkeypatch.context() as patch:
        patch.setattr(metatrain, "meta_train", None)  # nothing is trained any more
        again = learners.meta_train(run, "l3rs", {"digits": digits}, draw=first.draw)
    chex.assert_trees_all_equal(again.learned.theta, first.learned.theta)
    (saved,) = (run.directory / "optimizers").glob("l3rs-digits")
    task, found = problems.task_of(digits, 0), []
    for optimizer in (optim.load(saved), first.learned.optimizer(SMOKE.horizon)):
        found.append(metatrain.run(optimizer, task, jax.random.key(5), 3))
    chex.assert_trees_all_equal(*found)
    other = learners.meta_train(run, "l3rs", {"digits": digits}, draw=first.draw + 1)
    assert (other.learned.theta["embedding"] != first.learned.theta["embedding"]).any()


def test_the_best_of_failed_meta_trainings_is_saved(run, digits, monkeypatch):
    """Where all fail, and `ico.optim.load` finds it."""
    learner, losses = learners.learner_of("adafac_mlp"), [[1, 3], [1, 2], [1, np.nan]]

    def trained(run, name, on, ablation, draw):
        theta = learner.init(jax.random.key(draw), None)
        learned = metatrain.Learned(learner, theta, {"loss": np.asarray(losses[draw], float)})
        return metatrain.MetaTrained(learned, ablation, draw, 0.0, 0.0)

    monkeypatch.setattr(learners, "meta_train", trained)
    found = learners.attempts(run, "adafac_mlp", {"digits": digits})
    assert [each.draw for each in found] == [2, 0, 1]
    saved = (run.directory / "optimizers/adafac_mlp-digits/optimizer.json").read_text()
    assert json.loads(saved)["trained_on"]["draw"] == 1


@pytest.mark.slow
def test_places_is_read_pretrained_and_raced(tmp_path):
    """ResNet-34 on small photographs that are noise: the `paper` preset's programs."""
    tfds = pytest.importorskip("tensorflow_datasets")
    small = {"photos": 24, "photo_size": 32, "known_networks": 1, "unseen_networks": 1}
    small |= {"pretrain_steps": 1, "pretrain_batch": 2, "batch_size": 2, "test_images": 4}
    small |= {"side_by_side": 1, "test_runs": 2}
    config = dataclasses.replace(SMOKE, tasks=("places",), ablation_task="places", **small)
    run = paper.run(config, directory=tmp_path)
    with tfds.testing.mock_data(num_examples=24):
        places = problems.problem(run, "places")
    assert places.train.pixels.dtype == np.uint8 and places.train.pixels.shape[1:] == (32, 32, 3)
    entrant = metatrain.Entrant(lambda rate, *_: optax.sgd(rate), 1e-3)
    found = contest.contest_on(run, places).race(entrant, 2, 1e-3, 1)
    chex.assert_tree_all_finite(found["loss"])


@pytest.mark.slow
def test_many_passes_are_over_the_images_of_the_races(run, digits, monkeypatch):
    """And from the same starts: with a learning rate of zero they end where the races do."""
    noise = np.random.default_rng(0).integers(0, 255, digits.train.pixels.shape, np.uint8)
    train = Images(jnp.asarray(noise), digits.train.labels)  # no two images alike
    of = digits._replace(train=train)
    run = paper.run(SMOKE, directory=run.directory)  # no programs are compiled yet
    raced = contest.contest_on(run, of)
    seen, real = [], problems.task_of

    def task_of(of, network):
        jax.debug.callback(lambda pixels: seen.append(np.asarray(pixels)), of.train.pixels)
        return real(of, network)

    monkeypatch.setattr(in_distribution, "task_of", task_of)
    monkeypatch.setattr(in_distribution, "_OPTIMIZERS", {"SGD": ("sgd", 0)})
    monkeypatch.setattr(in_distribution.optim, "make", lambda name, **_: optax.sgd(0.0))
    found = in_distribution.many_passes(run, of)
    entrant = metatrain.Entrant(at_rest, 0.1)
    expected = raced.race(entrant, SMOKE.horizon, 1.0, 0)["losses"][:, -1]
    np.testing.assert_allclose(found["loss"], expected, rtol=1e-4, atol=1e-5)
    assert found["steps"] == SMOKE.passes * SMOKE.horizon // in_distribution._TESTS
    keys = jax.random.split(run.key("digits/test"), SMOKE.test_runs)
    draw = functools.partial(problems.draw, images=train, count=SMOKE.batch_size)
    drawn = [
        draw(jax.random.fold_in(jax.random.split(key)[1], t))
        for key in keys
        for t in range(SMOKE.horizon)
    ]
    wanted = {np.asarray(batch.pixels).tobytes() for batch in drawn}
    jax.effects_barrier()
    size = SMOKE.batch_size
    got = {pool[i : i + size].tobytes() for pool in seen for i in range(0, len(pool), size)}
    assert wanted <= got
