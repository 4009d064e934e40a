"""Optimizers by name, and learned ones on disk."""

import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import optim
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
