"""Seeds and settings under one vmap: each as if trained alone, found again to the last bit."""

import dataclasses
import functools
import json
import operator

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import ico
from ico import lab, models, tasks


class Config(lab.Config):
    num_seeds: lab.Count = 3


PAPER = lab.Paper("training", config=Config)
RECIPE = lab.Recipe(num_steps=20, learning_rate=0.05, steps_per_call=5)


@pytest.fixture
def run(tmp_path):
    return PAPER.run(Config(), directory=tmp_path)


def sample(key, size=8):
    return jax.random.normal(key, (size, 3))


def loss(params, batch):
    return jnp.mean((batch @ params["w"] - batch.sum(-1)) ** 2), {}


def init(key):
    return {"w": jax.random.normal(key, (3,))}


def linear(run, name="linear", recipe=RECIPE, **changes):
    arguments = {"loss": loss, "init": init} | changes
    return lab.train(run, name, None, arguments.pop("sampler", sample), recipe, **arguments)


def test_found_is_made_to_the_last_bit_with_its_history(run):
    first, second = linear(run), linear(run)
    chex.assert_trees_all_equal(first.params, second.params)
    chex.assert_trees_all_equal(first.history, second.history)
    assert first.history["loss"].shape == (4, 3) and list(first.history["step"]) == [5, 10, 15, 20]
    assert first.num_seeds == 3 and first.num_parameters == 3
    assert first.failure_rate is None
    (folder,) = run.artifacts.iterdir()
    assert json.loads((folder / "done.json").read_text())["git"] == run.commit


def test_what_it_depends_on_is_in_its_name(run):
    different = [
        {},
        {"name": "other"},
        {"recipe": lab.Recipe(20, 0.06, steps_per_call=5)},
        {"num_seeds": 2},
        {"stream": "shared"},
        {"sampler": functools.partial(sample, size=4)},
        {"start": {"w": jnp.ones((3, 3))}},
        {"start": {"w": jnp.zeros((3, 3))}},
    ]
    for changes in different:
        linear(run, **changes)
    assert len(list(run.artifacts.iterdir())) == len(different)


def test_a_closure_has_to_be_specified(run):
    factor = 2.0
    scaled = lambda params, batch: (factor * loss(params, batch)[0], {})  # noqa: E731
    with pytest.raises(TypeError, match="spec"):
        linear(run, loss=scaled)
    linear(run, loss=scaled, spec={"factor": factor})
    with pytest.raises(TypeError, match="spec"):
        linear(run, sampler=lambda key: factor * sample(key))


def test_settings_are_models_of_their_own(run):
    def scaled_loss(params, batch, setting):
        return setting["scale"] * loss(params, batch)[0], {}

    def sampler(key, setting):
        return sample(key)

    settings = {"scale": jnp.array([1.0, 0.3])}
    both = linear(run, "both", loss=scaled_loss, sampler=sampler, settings=settings)
    assert both.params["w"].shape == (3, 2, 3) and both.history["loss"].shape == (4, 3, 2)
    assert both.num_parameters == 3
    plain = linear(run, "plain", stream="both")
    chex.assert_trees_all_close(both.params["w"][:, 0], plain.params["w"], rtol=1e-5)
    given = {"scale": jnp.array(0.3)}
    alone = linear(run, "given", loss=scaled_loss, sampler=sampler, given=given, stream="both")
    chex.assert_trees_all_close(both.params["w"][:, 1], alone.params["w"], rtol=1e-5)
    chex.assert_trees_all_close(both.seed(2, 1)["w"], both.params["w"][2, 1])


def test_an_in_context_model_needs_no_loss_and_is_read_back_by_load_run(run):
    task = tasks.LinearRegression(batch_size=16, num_inputs=3, num_context=4)
    model = models.LinearTransformer(num_inputs=3)
    sampler = functools.partial(tasks.linear_regression, config=task)
    recipe = lab.Recipe(10, 1e-3, steps_per_call=5)
    trained = lab.train(run, "layer", model, sampler, recipe, num_seeds=2)
    (run.directory / "config.json").write_text("{}")
    loaded = ico.load_run(run.directory).models["layer"]
    assert loaded.model == model
    chex.assert_trees_all_equal(loaded.params, trained.params)
    chex.assert_trees_all_equal(loaded.seed(1), trained.seed(1))
    prompt = sampler(jax.random.key(0)).prompt
    by_seed = trained.outputs(prompt)
    chex.assert_trees_all_close(by_seed[1], trained.apply(trained.seed(1), prompt), rtol=1e-5)
    assert trained.apply(trained.seed(0), prompt).shape == (16, 1, 1)


def test_parameters_kept_are_those_to_use(run):
    recipe = lab.Recipe(20, 0.05, "schedule_free_adamw", clip=None, steps_per_call=5)
    found = linear(run, recipe=recipe, evaluate=lambda params: {"w": params["w"]})
    np.testing.assert_array_equal(found.history["eval/w"][-1], found.params["w"])


def gated(params, batch):
    error = loss({"w": params["w"]}, batch)[0]
    return jnp.where(params["alive"] > 0, error, 1e3 + 0 * error), {}


def test_dead_starts_are_begun_anew_and_counted(tmp_path):
    def start(key):
        return {"w": jax.random.normal(key, (3,)), "alive": 1.0 * (jax.random.uniform(key) > 0.33)}

    def train(seed, restart):
        run = PAPER.run(Config(), directory=tmp_path / f"{seed}-{restart}", seed=seed)
        recipe = lab.Recipe(20, 0.05, "sgd", clip=None, steps_per_call=5, restart=restart)
        return linear(run, recipe=recipe, loss=gated, init=start, num_seeds=20, spec="starts")

    rule = lab.Restart(step=10, above=500.0, most=9)
    plain, rescued = train(0, None), train(0, rule)
    dead = plain.history["loss"][-1] > 500
    assert 2 <= dead.sum() <= 12
    assert (rescued.history["loss"][-1] < 500).all()
    # Those that lived are what they were, and the history is whole.
    chex.assert_trees_all_equal(rescued.params["w"][~dead], plain.params["w"][~dead])
    np.testing.assert_array_equal(rescued.history["step"], plain.history["step"])
    chex.assert_trees_all_equal(rescued.history["loss"][:, ~dead], plain.history["loss"][:, ~dead])
    # Of all starts, those looked at and found dead.
    begun = 20 / (1 - rescued.failure_rate)
    assert begun == pytest.approx(round(begun)) and begun >= 20 + dead.sum()
    assert train(0, lab.Restart(10, 500.0, most=0)).failure_rate == pytest.approx(dead.mean())
    late = train(0, lab.Restart(20, 500.0, most=0))  # looked at once they are done
    np.testing.assert_array_equal(late.history["loss"], plain.history["loss"])


@pytest.mark.parametrize(
    ("recipe", "by_hand"),
    [
        (lab.Recipe(10, 0.1, clip=None), optax.adam(0.1)),
        (
            lab.Recipe(10, 0.1, "adamw", "cosine", warmup=0.2, end=0.1, weight_decay=0.3, clip=1.0),
            optax.chain(
                optax.clip_by_global_norm(1.0),
                optax.adamw(
                    optax.warmup_cosine_decay_schedule(0.0, 0.1, 2, 10, 0.01), weight_decay=0.3
                ),
            ),
        ),
        (
            lab.Recipe(10, 0.1, "sgd", "linear", tail=0.3, clip=None),
            optax.sgd(optax.linear_schedule(0.1, 0.0, 3, 7)),
        ),
    ],
)
def test_a_recipe_is_the_optimizer_it_names(recipe, by_hand):
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    ours, theirs = params, params
    mine, other = recipe.make(), by_hand
    states = mine.init(params), other.init(params)
    for n in range(10):
        grads = jax.tree.map(lambda p, n=n: jnp.sin(p * (n + 1)), ours)
        up, first = mine.update(grads, states[0], ours)
        down, second = other.update(grads, states[1], theirs)
        ours, theirs = optax.apply_updates(ours, up), optax.apply_updates(theirs, down)
        states = first, second
    chex.assert_trees_all_equal(ours, theirs)


def test_weight_decay_may_spare_vectors():
    params = {"w": jnp.ones((2, 2)), "b": jnp.ones(2)}
    optimizer = lab.Recipe(10, 0.1, "adamw", weight_decay=0.5, decay_matrices_alone=True).make()
    zero = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zero, optimizer.init(params), params)
    assert (updates["b"] == 0).all() and (updates["w"] < 0).all()


def test_a_recipe_refuses_what_makes_no_sense(annotations_off):
    with pytest.raises(ValueError, match="schedule"):
        lab.Recipe(10, schedule="step")
    with pytest.raises(ValueError, match="warmup"):
        lab.Recipe(10, schedule="cosine", warmup=2.0)
    with pytest.raises(ValueError, match="warmup"):
        lab.Recipe(10, warmup=0.1)
    with pytest.raises(ValueError, match="weight_decay"):
        lab.Recipe(10, weight_decay=0.1)


def test_descriptions():
    assert lab.describe(None) is None
    assert lab.describe(nn.Dense(3))["class"] == "flax.linen.linear.Dense"
    assert lab.describe(loss)["function"].endswith("test_train.loss")
    partial = lab.describe(functools.partial(sample, size=4))
    assert partial["arguments"] == [[], {"size": 4}]
    assert nn.Dense(3).param_dtype is jnp.float32 and "float32" in str(lab.describe(nn.Dense(3)))


class Scaled:
    """A callable with a state that its name does not tell."""

    def __init__(self, factor):
        self.factor = factor

    def __call__(self, params, batch):
        return self.factor * loss(params, batch)[0], {}

    def method(self, params, batch):
        return self(params, batch)


def times(factor):
    def decorate(function):
        @functools.wraps(function)
        def wrapped(*args):
            return factor * function(*args)[0], {}

        return wrapped

    return decorate


@pytest.mark.parametrize(
    "hidden",
    [
        Scaled(2.0),
        Scaled(2.0).method,
        times(2.0)(loss),
        lambda params, batch: loss(params, batch),
        functools.partial(lambda params, batch, c: loss(params, batch), c=1),
    ],
)
def test_what_a_name_does_not_tell_has_to_be_specified(run, hidden):
    with pytest.raises(TypeError, match="spec"):
        linear(run, loss=hidden)
    linear(run, loss=hidden, spec="two")


def test_defaults_and_code_count(run):
    def half(params, batch, factor=0.5):
        return factor * loss(params, batch)[0], {}

    def changed(source):
        """The same name in another state of its file."""
        import linecache

        name = f"<{hash(source)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
        space = {"loss": loss, "__name__": "somewhere"}
        exec(compile(source, name, "exec"), space)
        return space["scaled"]

    first = "def scaled(params, batch):\n    return 1 * loss(params, batch)[0], {}\n"
    assert lab.describe(half)["defaults"] == [[0.5], None]
    one, two = changed(first), changed(first.replace("1 *", "2 *"))
    commented = changed(first.replace("    return", "    # why\n    return"))
    assert lab.describe(one) == lab.describe(commented) != lab.describe(two)


def test_the_best_seed_is_no_diverged_one():
    assert lab.best_seed([1.0, 0.9, np.nan]) == 1
    with pytest.raises(ValueError, match="no seed has a finite loss"):
        lab.best_seed([np.nan, np.inf])


def test_every_seed_is_mapped_to_what_it_gives_alone(run):
    trained = linear(run)
    found = trained.mapped(lambda params: {"twice": jax.tree.map(lambda leaf: 2 * leaf, params)})
    for seed in range(trained.num_seeds):
        chex.assert_trees_all_close(
            jax.tree.map(operator.itemgetter(seed), found["twice"]),
            jax.tree.map(lambda leaf: 2 * leaf, trained.seed(seed)),
        )


def test_iterates_are_kept_at_the_steps_asked_for(run):
    """With settings, too; found again; the last of them are the parameters."""
    rates = jnp.array([0.1, 0.3])

    def scaled(params, batch, rate):
        value, metrics = loss(params, batch)
        return rate * value, metrics

    for _ in range(2):
        trained = linear(
            run,
            "kept",
            loss=scaled,
            sampler=lambda key, rate: sample(key),
            settings=rates,
            record_at=(0, 5, 20),
            spec="scaled",
        )
        chex.assert_shape(trained.iterates, (3, 3, 2, 3))
        chex.assert_trees_all_equal(trained.iterates[-1], np.asarray(trained.params["w"]))
        chex.assert_trees_all_equal(trained.unravel(trained.iterates[-1, 0, 0]), trained.seed(0, 0))
    chex.assert_trees_all_equal(trained.iterates[0, :, 0], trained.iterates[0, :, 1])


def test_a_recipe_averages_and_takes_any_schedule(run):
    """SGD with the equivalent schedule ends near the average of the other run, not near its end."""
    half = tuple(0.5 for _ in range(20))
    plain = lab.Recipe(20, 0.1, "sgd", steps_per_call=5, clip=None)
    trained = functools.partial(linear, run, recipe=plain)
    found = [
        trained("plain", stream="same", record_at=range(21)),
        linear(
            run,
            "mean",
            dataclasses.replace(plain, average=ico.optim.SWA()),
            stream="same",
        ),
        linear(run, "half", dataclasses.replace(plain, schedule=half), stream="same"),
        linear(run, "slow", dataclasses.replace(plain, learning_rate=0.05), stream="same"),
    ]
    mean = found[0].iterates[1:].mean(0)
    chex.assert_trees_all_close(found[1].params["w"], mean, atol=1e-6)
    chex.assert_trees_all_close(found[2].params, found[3].params, atol=1e-7)
    for wrong in ({"schedule": (1.0,)}, {"optimizer": "adam", "momentum": 0.9}):
        with pytest.raises(ValueError, match="want 20|momentum is of sgd"):
            dataclasses.replace(plain, **wrong)
