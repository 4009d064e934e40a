"""The contest of learned_optimizer: its schedules, its tuning, its races, its problems."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from experiments.launch import Context
from experiments.learned_optimizer import config as configuration
from experiments.learned_optimizer import contest, learners, many_passes, problems, races
from experiments.learned_optimizer.config import SMOKE
from ico import metatrain, optim


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return Context(config=SMOKE, directory=folder, seed=0, preset="smoke", progress=False)


@pytest.fixture(scope="module")
def digits(context):
    return problems.problem(context, "digits")


def test_schedules():
    for horizon in (10, 50):
        steps = jnp.arange(horizon)
        constant, cosine, warm, up = (
            contest.schedule(kind, 2.0, horizon)(steps) for kind in range(len(contest.SCHEDULES))
        )
        np.testing.assert_allclose(constant, 2)
        expected = 1 + np.cos(np.pi * np.arange(horizon) / horizon)
        np.testing.assert_allclose(cosine, expected, rtol=1e-5)
        peak = horizon // 10
        assert warm[0] > 0 and np.argmax(warm) in (peak - 1, peak)
        np.testing.assert_allclose(up, 2 * np.minimum((np.arange(horizon) + 1) / peak, 1))
        np.testing.assert_allclose(warm[peak:], optax.cosine_decay_schedule(
            2.0, horizon - peak)(steps[peak:] - peak), rtol=1e-5)  # fmt: skip


def test_rates_are_a_factor_of_two_apart_around_the_middle():
    np.testing.assert_allclose(contest.rates_around(0.1, 5), [0.025, 0.05, 0.1, 0.2, 0.4])


def test_problems_have_three_parts_and_new_heads(context, digits):
    parts = [digits.train, digits.valid, digits.test]
    rows = [{row.tobytes() for row in np.asarray(part.pixels)} for part in parts]
    assert not rows[0] & rows[1] and not rows[0] & rows[2] and not rows[1] & rows[2]
    assert all(set(np.asarray(part.labels)) <= set(range(5)) for part in parts)
    a, b = (problems.task_of(digits, 0).init(jax.random.key(i)) for i in range(2))
    other = problems.task_of(digits, 1).init(jax.random.key(0))
    assert (a["dense_0"]["kernel"] == b["dense_0"]["kernel"]).all()
    assert (a["head"]["kernel"] != b["head"]["kernel"]).any()
    assert (a["dense_0"]["kernel"] != other["dense_0"]["kernel"]).any()
    new = problems.problem(context, "digits", new_data=True)
    np.testing.assert_array_equal(
        new.bodies["dense_0"]["kernel"], digits.bodies["dense_0"]["kernel"]
    )
    others = {row.tobytes() for row in np.asarray(new.test.pixels)}
    assert others.isdisjoint(set().union(*rows))


def test_optimizers_are_trained_on_known_networks_alone(digits):
    assert (digits.known, digits.unseen) == (2, 2)
    sample = problems.family(digits).sample
    assert {int(sample(jax.random.key(i))) for i in range(20)} == {0, 1}


def test_a_race_is_the_training_it_says(digits):
    """Against a plain loop, at two horizons of one program."""
    entrant = contest.Entrant(lambda rate, *_: optax.adam(rate), 1e-2)
    race = contest._racer(digits, entrant, 1, 20)
    keys = jax.random.split(jax.random.key(0), 2)
    for horizon in (4, 7):
        run = race(np.full(2, 0.01), np.full(2, 1), horizon, keys, np.array([1, 3]), digits.test)
        assert run.losses.shape == (2, 1) and run.images.shape == (2, len(digits.test.labels))
        for i, network in enumerate((1, 3)):
            task = problems.task_of(digits, network)
            optimizer = optax.with_extra_args_support(
                optax.adam(contest.schedule(1, 0.01, horizon))
            )
            start, batches = jax.random.split(keys[i])
            inner = metatrain.begin(optimizer, task, start)
            for t in range(horizon):
                key = jax.random.fold_in(batches, t)
                inner, _ = metatrain.inner_step(optimizer, task, inner, key)
            expected = problems.cross_entropy(digits.model, inner.params, digits.test)
            np.testing.assert_allclose(run.losses[i, 0], expected, rtol=1e-4)
            right = problems.accuracy(digits.model, inner.params, digits.test)
            np.testing.assert_allclose(run.accuracy[i], right, atol=1e-6)
            np.testing.assert_allclose(run.images[i].mean(), expected, rtol=1e-4)


class Landscape:
    """A race whose losses are known: the best rate has one schedule; few runs are misleading."""

    def __init__(self, best: float, kind: int, misled: float):
        self.best, self.kind, self.misled, self.seen = best, kind, misled, []

    def __call__(self, peaks, kinds, horizon, keys, networks, split, theta):
        self.seen.append((np.asarray(jax.random.key_data(keys)), set(networks), split))
        losses = np.abs(np.log(peaks / self.best)) + (kinds != self.kind)
        few = len(keys) == len(peaks) and len(np.unique(self.seen[-1][0], axis=0)) == 1
        losses = losses - 5.0 * (few & (peaks == self.misled))
        losses = losses[:, None].astype(np.float32)
        return contest.Run(losses, np.zeros(len(peaks)), losses)


def test_tuning_takes_the_best_of_the_second_round(context, digits):
    config = dataclasses.replace(SMOKE, num_rates=9, first_runs=1, second_candidates=6,
                                 second_runs=3, test_runs=6)  # fmt: skip
    context = dataclasses.replace(context, config=config)
    entrant = contest.Entrant(lambda rate, *_: optax.sgd(rate), 0.1)
    landscape = Landscape(0.4, 2, misled=0.8)
    contestant = contest.Contestant(context, digits, "SGD", entrant, {1: landscape})
    tuned = contestant.tuned(8)
    assert (tuned["rate"], tuned["schedule"], tuned["edge"]) == (0.4, 2, False)
    assert tuned["losses"].shape == (4, 9)
    contestant.race(8, tuned)
    contestant.race(8, tuned, unseen=True)
    first, second, test, unseen = ({key.tobytes() for key in keys} for keys, *_ in landscape.seen)
    assert len(first) == 1 and len(second) == 3 and len(test) == len(unseen) == 6
    assert not (first | second) & test and not (first | second) & unseen
    assert [seen[1] for seen in landscape.seen] == [{0}, {0, 1}, {0, 1}, {2, 3}]
    assert [seen[2] is digits.valid for seen in landscape.seen] == [True, True, False, False]


def test_rates_are_added_while_the_best_is_at_an_edge(context, digits):
    entrant = contest.Entrant(lambda rate, *_: optax.sgd(rate), 0.1)

    def tuned(best):
        return contest.Contestant(
            context, digits, "SGD", entrant, {1: Landscape(best, 0, 0)}
        ).tuned(8)

    for best in (0.1 * 2.0**4, 0.1 * 2.0**-7):  # beyond the three rates there are at first
        found = tuned(best)
        assert found["rate"] == best and not found["edge"] and len(found["rates"]) > 3
        np.testing.assert_allclose(found["rates"][1:] / found["rates"][:-1], 2)
    assert tuned(1e9)["edge"]  # beyond all


def test_runs_are_compared_by_image_and_by_network(digits):
    """One that diverged counts as twice a guess; runs of one unseen network are averaged."""
    images = np.random.default_rng(0).uniform(0, 1, (6, 5)).astype(np.float32)
    images[1, 2], images[4] = np.nan, 100.0
    bad = 2 * np.log(digits.model.num_classes)
    ends = contest.ends(images, digits.model)
    np.testing.assert_allclose(ends[[1, 4]], bad)
    np.testing.assert_array_equal(ends[[0, 2, 3, 5]], images[[0, 2, 3, 5]])
    field = races.Field.__new__(races.Field)
    field.model, field.groups = digits.model, 3  # run i is from network i % 3: see Contestant.race
    field.runs = {"one": contest.Run(images, images[:, 0], images)}
    np.testing.assert_allclose(field.ends("one"), (ends[:3] + ends[3:]) / 2)


def test_every_ablation_changes_the_optimizer():
    shapes = {"a": {"kernel": jnp.ones((2, 3))}, "b": {"kernel": jnp.ones((3, 1))}}
    grads = {"a": {"kernel": 1 + jnp.arange(6.0).reshape(2, 3)}, "b": {"kernel": -jnp.ones((3, 1))}}

    def second_update(name):
        learner = learners.learner_of("l3rs", name)
        theta = learner.init(jax.random.key(0), shapes)
        theta = jax.tree.map(lambda a: a + 0.3 * jnp.cos(jnp.arange(a.size)).reshape(a.shape),
                             theta)  # fmt: skip
        optimizer, params = learner.build(theta, 5), shapes
        state = optimizer.init(params)
        for size in (1.0, 0.5):
            some = jax.tree.map(lambda g, size=size: size * g, grads)
            updates, state = optimizer.update(some, state, params, value=jnp.ones(()))
            params = jax.tree.map(jnp.add, params, updates)
        return np.concatenate([np.ravel(a) for a in jax.tree.leaves(updates)])

    updates = [second_update(name) for name in ("", *learners.ABLATIONS)]
    for i, one in enumerate(updates):
        assert all(np.abs(one / other - 1).max() > 1e-3 for other in updates[:i])
    whole, universal = (learners.learner_of("l3rs", name) for name in ("", "no embedding"))
    assert universal.init(jax.random.key(0), shapes)["embedding"].shape[0] == 1
    assert whole.init(jax.random.key(0), shapes)["embedding"].shape[0] == 2


def test_names_in_the_configuration_are_those_that_are_made():
    assert set(configuration.BASELINES) == set(contest.BASELINES)
    assert set(configuration.ABLATIONS) == set(learners.ABLATIONS)
    for field in ("baselines", "ablations", "tasks", "rivals"):
        with pytest.raises(ValueError, match="nothing"):
            dataclasses.replace(SMOKE, **{field: ("nothing",)}).validate()


def test_a_meta_training_is_found_again(context, digits, monkeypatch):
    """And one that was killed goes on where it was."""
    short = dataclasses.replace(
        context, config=dataclasses.replace(SMOKE, meta_steps=3, estimator="unrolled")
    )
    first = learners.attempts(short, "l3rs", {"digits": digits})[-1]
    assert len(first.losses) and first.seconds > 0 and first.inner_steps == 3 * 2 * 4
    saved = list((short.directory / "optimizers").glob("l3rs-digits"))
    assert len(saved) == 1
    with monkeypatch.context() as patch:
        patch.setattr(metatrain, "meta_train", None)  # nothing is trained any more
        again = learners.meta_trained(short, "l3rs", {"digits": digits})
    jax.tree.map(np.testing.assert_array_equal, again.theta, first.theta)
    loaded, seen = optim.load(saved[0]), jax.random.key(5)
    task = problems.task_of(digits, 0)
    for optimizer in (loaded, first.learner.build(first.theta, SMOKE.horizon)):
        params, losses, _ = metatrain.run(optimizer, task, seen, 3)
        if optimizer is loaded:
            expected = params, losses
    jax.tree.map(np.testing.assert_array_equal, (params, losses), expected)
    other = learners.meta_trained(short, "l3rs", {"digits": digits}, draw=1)
    assert not np.array_equal(other.theta["embedding"], first.theta["embedding"])


@pytest.mark.parametrize(
    ("losses", "draws"),
    [([[2, 1]], [0]), ([[1, 2], [2, 2]], [0, 1]), ([[1, np.nan], [1, 3], [2, 1]], [0, 1, 2]),
     ([[1, 3], [1, 2], [1, np.nan]], [2, 0, 1])],
)  # fmt: skip
def test_a_failed_meta_training_is_begun_anew(context, digits, monkeypatch, losses, draws):
    """At most twice; where all fail the best of them races, and `ico.optim.load` finds that."""
    learner = learners.learner_of("adafac_mlp")

    def trained(context, name, tasks, ablation, draw):
        theta = learner.init(jax.random.key(draw), None)
        return learners.Trained(
            learner, theta, {"draw": draw}, np.asarray(losses[draw], float), np.arange(2), 0.0, 0.0
        )

    monkeypatch.setattr(learners, "meta_trained", trained)
    found = learners.attempts(context, "adafac_mlp", {"digits": digits})
    assert [each.spec["draw"] for each in found] == draws
    saved = json.loads(
        (context.directory / "optimizers/adafac_mlp-digits/optimizer.json").read_text()
    )
    assert saved["trained_on"]["draw"] == draws[-1]


@pytest.mark.slow
def test_places_is_read_pretrained_and_raced(tmp_path):
    """ResNet-34 on small photographs that are noise: the `paper` preset's programs."""
    tfds = pytest.importorskip("tensorflow_datasets")
    config = dataclasses.replace(
        SMOKE, tasks=("places",), ablation_task="places", photos=24, photo_size=32,
        known_networks=1, unseen_networks=1, pretrain_steps=1, pretrain_batch=2, batch_size=2,
        test_images=4, side_by_side=1,
    )  # fmt: skip
    context = Context(config=config, directory=tmp_path, seed=0, preset="smoke", progress=False)
    with tfds.testing.mock_data(num_examples=24):
        which = problems.problem(context, "places")
    assert which.train.pixels.dtype == np.uint8 and which.train.pixels.shape[1:] == (32, 32, 3)
    entrant = contest.Entrant(lambda rate, *_: optax.sgd(rate), 1e-3)
    race = contest._racer(which, entrant, 1, 1)
    one = np.ones(1)
    keys = jax.random.split(jax.random.key(0), 1)
    run = race(1e-3 * one, one.astype(int), 2, keys, np.zeros(1, int), which.test)
    assert np.isfinite(run.losses).all()


def test_photographs_are_seen_a_few_at_a_time(digits, monkeypatch):
    body = jax.tree.map(lambda a: a[0], digits.bodies)
    params = problems.task_of(digits, 0).init(jax.random.key(0))
    assert set(params) == {*body, "head"}
    whole = problems.logits_of(digits.model, params, digits.test.pixels)
    monkeypatch.setattr(problems, "_PIXELS", 64 * 5)
    parts = problems.logits_of(digits.model, params, digits.test.pixels)
    assert len(whole) % 5
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_many_passes_are_over_the_images_of_the_races(context, digits, monkeypatch):
    """And from the same starts."""
    noise = np.random.default_rng(0).integers(0, 255, digits.train.pixels.shape, np.uint8)
    train = digits.train._replace(pixels=jnp.asarray(noise))  # no two images alike
    which = digits._replace(train=train)
    at_rest = contest.Entrant(lambda rate, *_: optax.sgd(0.0), 0.1)
    run = contest.Contestant(context, which, "at rest", at_rest).race(
        SMOKE.horizon, {"rate": 1.0, "schedule": 0}
    )
    seen, real = [], problems.task_of

    def task_of(which, network):
        if not isinstance(which.train.pixels, jax.core.Tracer):
            return real(which, network)

        def kept(pixels):
            seen.append(np.asarray(pixels))

        jax.debug.callback(kept, which.train.pixels)
        return real(which, network)

    monkeypatch.setattr(many_passes.problems, "task_of", task_of)
    monkeypatch.setattr(many_passes, "_OPTIMIZERS", {"none": lambda *_: optax.sgd(0.0)})
    found = many_passes.many_passes(context, which)
    np.testing.assert_allclose(found.images, run.images, rtol=1e-4, atol=1e-5)
    assert found.steps == SMOKE.passes * SMOKE.horizon // many_passes._TESTS  # the first of equals
    starts = jax.random.split(context.key("digits/test"), SMOKE.test_runs)
    drawn = [problems.draw(jax.random.fold_in(jax.random.split(key)[1], t), train, SMOKE.batch_size)
             for key in starts for t in range(SMOKE.horizon)]  # fmt: skip
    wanted = {np.asarray(batch.pixels).tobytes() for batch in drawn}
    jax.effects_barrier()
    size = SMOKE.batch_size
    got = {pool[i : i + size].tobytes() for pool in seen for i in range(0, len(pool), size)}
    assert wanted <= got
