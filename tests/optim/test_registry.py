"""Optimizers by name, and learned ones on disk."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import optim
from ico.files import FileError, load_tree, save_tree
from tests.optim.conftest import PARAMS, random_theta, run


@pytest.mark.parametrize("name", optim.names())
def test_every_named_optimizer_steps(name):
    options = {} if name == "l3rs" else {"learning_rate": 1e-2}
    if name in ("adafac_mlp", "direction_mlp", "l3rs"):
        options["theta"] = optim.learned(name).init(jax.random.key(0), PARAMS)
    params, _, seen = run(optim.make(name, **options), 1)
    chex.assert_tree_all_finite(params)
    assert float(optax.tree.norm(seen[0][2])) > 0


def test_settings_are_those_of_the_configuration():
    theta = random_theta(optim.L3RS.averaged(fade=False))
    ours = run(optim.make("l3rs", theta=theta, num_steps=9, average=True, fade=False), 2)[0]
    theirs = run(optim.L3RS.averaged(fade=False).optimizer(theta, 9), 2)[0]
    chex.assert_trees_all_equal(ours, theirs)
    learner = optim.learned("l3rs", average=True, fade=False, hidden=(4,))
    config = optim.L3RS.averaged(fade=False, hidden=(4,))
    theta = config.init(jax.random.key(0), PARAMS)
    chex.assert_trees_all_equal(learner.init(jax.random.key(0), PARAMS), theta)
    chex.assert_trees_all_equal(
        run(learner.build(theta, 9), 1)[0], run(config.optimizer(theta, 9), 1)[0]
    )


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: optim.make("quick"), "quick"),
        (lambda: optim.make("adamw", learning_speed=1.0), "adamw"),
        (lambda: optim.make("l3rs", theta=random_theta(), learning_speed=1.0), "l3rs.*speed"),
        (lambda: optim.make("l3rs", theta=random_theta(), base_optimizers=[]), "base"),
        (lambda: optim.learned("adam"), "learned optimizers are"),
        (lambda: optim.learned("l3rs", learning_speed=1.0), "l3rs.*speed"),
    ],
)
def test_wrong_arguments_are_named(make, word):
    with pytest.raises(ValueError, match=word):
        make()


@pytest.mark.parametrize("kind", [jnp.complex64, jnp.int32])
@pytest.mark.parametrize("name", ["l3rs", "adafac_mlp"])
def test_parameters_that_are_not_floating_are_refused(name, kind):
    params = {"layer": {"kernel": jnp.ones(3), "count": jnp.ones(2, kind)}}
    learner = optim.learned(name)
    optimizer = learner.build(learner.init(jax.random.key(0), params), 5)
    with pytest.raises(ValueError, match="layer/count"):
        optimizer.init(params)
    mask = {"layer": {"kernel": True, "count": False}}
    optax.masked(optimizer, mask).init(params)


def test_saved_and_loaded(tmp_path):
    config = optim.L3RS(base_optimizers=("sgd", "lion"))
    theta = random_theta(config)
    settings = {"base_optimizers": ["sgd", "lion"], "num_steps": 9}
    optim.save(tmp_path / "one", "l3rs", theta, settings, {"task": "digits"})
    ours = run(optim.load(tmp_path / "one"), 2)[0]
    chex.assert_trees_all_equal(ours, run(config.optimizer(theta, 9), 2)[0])
    longer = run(optim.load(tmp_path / "one", num_steps=99), 2)[0]
    assert not np.array_equal(longer["head"]["kernel"], ours["head"]["kernel"])
    found, again = optim.load_theta(tmp_path / "one")
    assert found["trained_on"] == {"task": "digits"}
    assert optim.L3RS(**{k: v for k, v in found["settings"].items() if k != "num_steps"}) == config
    chex.assert_trees_all_equal(again, theta)
    with pytest.raises(ValueError, match="quick"):
        optim.save(tmp_path / "two", "quick", theta)
    assert not (tmp_path / "two").exists()
    with pytest.raises(FileNotFoundError, match="learned optimizer"):
        optim.load(tmp_path / "two")
    (tmp_path / "one" / "theta.npz").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="one"):
        optim.load(tmp_path / "one")


@pytest.mark.parametrize("name", ["l3rs", "adafac_mlp", "direction_mlp"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_theta_of_any_type_comes_back_to_the_bit(name, dtype, tmp_path):
    theta = optim.learned(name).init(jax.random.key(0), PARAMS)
    theta = jax.tree.map(lambda leaf: leaf.astype(dtype), theta)
    optim.save(tmp_path, name, theta)
    found = optim.load_theta(tmp_path)[1]
    chex.assert_trees_all_equal(found, theta)
    chex.assert_trees_all_equal_dtypes(found, theta)
    optim.load(tmp_path)


def damaged(change):
    """A saved optimizer, with one of its files changed."""

    def write(folder):
        theta = optim.learned("adafac_mlp").init(jax.random.key(0), PARAMS)
        optim.save(folder, "adafac_mlp", theta)
        change(folder / "optimizer.json", folder / "theta.npz")

    return write


def flip(place):
    def change(_, npz):
        content = bytearray(npz.read_bytes())
        content[int(place * len(content))] ^= 4
        npz.write_bytes(content)

    return change


def field(name, value=None):
    def change(path, _):
        found = json.loads(path.read_text())
        found.pop(name) if value is None else found.update({name: value})
        path.write_text(json.dumps(found))

    return change


def other_shape(_, npz):
    np.savez(npz, **{"network/dense_0/kernel": np.ones((2, 2))})


DAMAGE = {
    "a bit in an array": (flip(0.3), "theta.npz"),
    "no name": (field("name"), "optimizer.json is damaged: it has no field 'name'"),
    "a name that is a list": (field("name", [1]), "optimizer.json is damaged: 'name' must be"),
    "no settings": (field("settings"), "'settings'"),
    "another format": (field("format", 3), "format 3"),
    "unknown": (field("name", "quick"), "quick"),
    "nested": (lambda path, _: path.write_text("[" * 9_000), "nested"),
    "other shapes": (other_shape, "makes no optimizer"),
    "no theta": (lambda _, npz: npz.unlink(), "no theta.npz"),
    "a folder": (lambda path, _: (path.unlink(), path.mkdir()), "not a regular file"),
    "a setting of another type": (field("settings", {"learning_rate": "fast"}), "makes no"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_in_one_line(name, tmp_path):
    change, words = DAMAGE[name]
    damaged(change)(tmp_path)
    with pytest.raises(FileError, match=words) as caught:
        optim.load(tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("place", np.linspace(0.01, 0.99, 25))
def test_a_flipped_bit_is_named_or_changes_nothing(place, tmp_path):
    """Some bytes of a zip file say nothing that is read, such as its dates."""
    theta = {"network": {"kernel": np.arange(40.0, dtype=np.float32)}}
    save_tree(tmp_path / "theta.npz", theta)
    flip(place)(None, tmp_path / "theta.npz")
    try:
        chex.assert_trees_all_equal(load_tree(tmp_path / "theta.npz"), theta)
    except FileError as error:
        assert "theta.npz" in str(error)


def test_what_json_would_change_is_not_saved(tmp_path):
    theta = optim.learned("adafac_mlp").init(jax.random.key(0), PARAMS)
    with pytest.raises(ValueError, match="JSON would not give"):
        optim.save(tmp_path, "adafac_mlp", theta, trained_on={1: "one"})
    with pytest.raises(ValueError, match="nested dicts"):
        optim.save(tmp_path, "adafac_mlp", {"network": [np.ones(2)]} | theta | {"more": [1]})
    assert not list(tmp_path.iterdir())
    optim.save(tmp_path, "adafac_mlp", theta, trained_on={"loss": float("nan"), "on": ("a", 1)})


FOUR = ["sgd", "adam", "lion", "momentum"]


@pytest.mark.parametrize(
    ("saved", "changes"),
    [
        ({"average": True}, {"average": False, "base_optimizers": FOUR}),
        ({"base_optimizers": FOUR}, {"average": True, "base_optimizers": ["sgd", "rmsprop"]}),
    ],
)
def test_outputs_of_a_saved_theta_are_not_taken_for_others(saved, changes, tmp_path):
    """Two base optimizers and an average have as many outputs as four without one."""
    theta = optim.learned("l3rs", **saved).init(jax.random.key(0), PARAMS)
    optim.make("l3rs", theta=theta, **changes)  # the shapes alone would not tell
    optim.save(tmp_path, "l3rs", theta, saved)
    with pytest.raises(ValueError, match="theta is for"):
        optim.load(tmp_path, **changes)
    optim.load(tmp_path, base_optimizers=list(reversed(FOUR))[: 2 if "average" in saved else 4])


def test_optimizers_saved_before_configurations_are_read(tmp_path):
    """Format 1 wrote only the settings that were given, and other names for learning rates."""
    config = optim.L3RS.averaged(shared_learning_rate=True)
    theta = random_theta(config)
    settings = {"average": True, "shared_learning_rate": True, "num_steps": 9}
    optim.save(tmp_path, "l3rs", theta, settings)
    found = json.loads((tmp_path / "optimizer.json").read_text())
    found |= {"format": 1, "settings": {"average": True, "shared_step": True, "num_steps": 9}}
    (tmp_path / "optimizer.json").write_text(json.dumps(found))
    with np.load(tmp_path / "theta.npz") as file:
        arrays = dict(file)
    arrays["log_step"] = arrays.pop("log_learning_rate")
    np.savez(tmp_path / "theta.npz", **arrays)
    ours = run(optim.load(tmp_path), 2)[0]
    chex.assert_trees_all_equal(ours, run(config.optimizer(theta, 9), 2)[0])


PARTS = {"body": {"kernel": jnp.ones((3, 4)), "bias": jnp.zeros(4)}, "head": {"w": jnp.ones(2)}}


@pytest.mark.parametrize("name", optim.HAND_DESIGNED)
def test_hand_designed_optimizers_descend(name):
    """Each lowers a quadratic at the middle of its learning rates, given as a schedule."""

    def loss(params):
        return sum(jnp.sum((leaf - 0.5) ** 2) for leaf in jax.tree.leaves(params))

    hand_designed = optim.HAND_DESIGNED[name]
    optimizer = hand_designed.make(optax.constant_schedule(hand_designed.learning_rate))

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    (params, state), _ = jax.lax.scan(step, (PARTS, optimizer.init(PARTS)), None, length=100)
    assert loss(optim.eval_params(state, params)) < 0.95 * loss(PARTS)


def test_parts_that_are_not_named_stay():
    optimizer = optim.on_parts(optax.adam(0.1), "head")
    grads = jax.tree.map(jnp.ones_like, PARTS)
    updates, _ = optimizer.update(grads, optimizer.init(PARTS), PARTS)
    adam = optax.adam(0.1)
    alone, _ = adam.update(grads["head"], adam.init(PARTS["head"]), PARTS["head"])
    chex.assert_trees_all_close(updates["head"], alone)
    chex.assert_trees_all_equal(updates["body"], jax.tree.map(jnp.zeros_like, PARTS["body"]))


def test_groups_are_layers_in_the_order_of_their_parameters():
    assert optim.group_names(PARTS) == ("body", "head")
    assert optim.group_names(PARTS, lambda path: path[-1].key) == ("bias", "kernel", "w")
    shapes = jax.eval_shape(lambda: PARTS)
    assert optim.group_names(shapes) == ("body", "head")
