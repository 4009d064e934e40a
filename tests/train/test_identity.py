"""A checkpoint of something else is refused and left alone; only damage is set aside, for good."""

import functools
import hashlib
import os
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ico import optim, train
from ico.train import _identity
from ico.train.checkpoint import Checkpoints

CONFIG = train.LoopConfig(num_steps=10, steps_per_call=5, checkpoint_every=5)


def params():
    return {"w": jnp.ones((3, 1)), "b": jnp.zeros(1)}


def state_of(optimizer, tree=None):
    tree = params() if tree is None else tree
    return train.init_state(lambda key: tree, optimizer, jax.random.key(0))


def content(folder):
    """Every file of a folder by its bytes, the metric log's among them."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture
def saved(tmp_path):
    """Saves a state of an optimizer as step 10, without a training."""

    def save(optimizer, tree=None, step=10):
        checkpoints = Checkpoints(tmp_path / "checkpoints", 3, optimizer)
        checkpoints.save(step, state_of(optimizer, tree), None)
        checkpoints.wait()
        checkpoints.close()

    return save


@pytest.fixture
def restored(tmp_path):
    def restore(optimizer, tree=None):
        checkpoints = Checkpoints(tmp_path / "checkpoints", 3, optimizer)
        try:
            return checkpoints.restore(state_of(optimizer, tree))
        finally:
            checkpoints.close()

    return restore


def test_another_optimizer_in_the_same_folder(program, tmp_path):
    """The issue's own case: Adam, then AdamW, then Adam again."""

    def fit(optimizer):
        step = train.make_step(program.loss_fn, optimizer)
        state = train.init_state(program.init_params, optimizer, jax.random.key(0))
        return train.fit(step, state, program.sample, CONFIG, directory=tmp_path)

    first = fit(optax.adam(1e-2))
    before = content(tmp_path)
    for _ in range(2):
        with pytest.raises(train.CheckpointError, match="another optimizer.*add_decayed_weights"):
            fit(optax.adamw(1e-2))
        assert content(tmp_path) == before
    again = fit(optax.adam(1e-2))
    assert int(again.state.step) == 10
    np.testing.assert_array_equal(again.state.params["w"], first.state.params["w"])


OTHERS = {
    "nadam": (optax.adam(0.1), optax.nadam(0.1), "nesterov=False there"),
    "radam": (optax.adam(0.1), optax.radam(0.1), "scale_by_radam"),
    "adamax": (optax.adam(0.1), optax.adamax(0.1), "scale_by_adamax"),
    "amsgrad": (optax.adam(0.1), optax.amsgrad(0.1), "amsgrad"),
    "momentum": (optax.sgd(0.1), optax.sgd(0.1, 0.9), "another optimizer"),
    "nesterov": (optax.sgd(0.1, 0.9), optax.sgd(0.1, 0.9, nesterov=True), "nesterov"),
    "clipped": (
        optax.adam(0.1),
        optax.chain(optax.clip_by_global_norm(1.0), optax.adam(0.1)),
        "clip",
    ),
    "injected": (
        optax.inject_hyperparams(optax.adam)(0.1),
        optax.inject_hyperparams(optax.nadam)(0.1),
        "another optimizer",
    ),
    "accumulated": (
        optax.MultiSteps(optax.adam(0.1), 2).gradient_transformation(),
        optax.MultiSteps(optax.nadam(0.1), 2).gradient_transformation(),
        "nesterov",
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_optimizers_are_told_apart(name):
    ours, other, words = OTHERS[name]
    state, wanted = state_of(ours), state_of(other)
    leaves, of = _identity.describe_leaves(state), _identity.identity(state, ours)
    apart = _identity.difference(leaves, of, wanted, other)
    assert apart.startswith("of another optimizer") and words in apart
    assert _identity.difference(leaves, of, state, ours) is None


@pytest.mark.parametrize("name", ["adam", "adamw", "lamb", "lion", "muon", "schedule_free_adamw"])
def test_another_learning_rate_is_no_other_optimizer(name):
    ours, other = (optim.make(name, learning_rate=rate) for rate in (0.1, 0.01))
    state = state_of(ours)
    leaves, of = _identity.describe_leaves(state), _identity.identity(state, ours)
    assert _identity.difference(leaves, of, state_of(other), other) is None


def test_a_longer_schedule_is_no_other_optimizer():
    ours, other = (optax.adam(optax.cosine_decay_schedule(0.1, n)) for n in (10, 20))
    assert _identity.parts(ours) == _identity.parts(other)


def test_another_version_of_optax_compares_the_structure_alone():
    adam, nadam, adamw = optax.adam(0.1), optax.nadam(0.1), optax.adamw(0.1)
    state = state_of(adam)
    leaves = _identity.describe_leaves(state)
    of = _identity.identity(state, adam) | {"optax": "0.0.1"}
    assert _identity.difference(leaves, of, state_of(nadam), nadam) is None
    assert "its state is" in _identity.difference(leaves, of, state_of(adamw), adamw)


def test_another_structure_of_parameters_is_another_model(saved, restored, tmp_path):
    """The leaves have the same paths, shapes and types."""
    optimizer = optax.sgd(0.1)
    saved(optimizer, {"a": [jnp.ones(2), jnp.ones(3)]})
    before = content(tmp_path)
    with pytest.raises(train.CheckpointError, match=r"another model.*list\["):
        restored(optimizer, {"a": (jnp.ones(2), jnp.ones(3))})
    with pytest.raises(train.CheckpointError, match="another model: leaf 'params/a/1'"):
        restored(optimizer, {"a": [jnp.ones(2), jnp.ones(4)]})
    assert content(tmp_path) == before
    assert restored(optimizer, {"a": [jnp.ones(2), jnp.ones(3)]}) is not None


def test_a_checkpoint_of_before_there_was_an_identity(saved, restored, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("ico.train.checkpoint.identity", lambda *_: None)
        saved(optax.adam(0.1))
    before = content(tmp_path)
    assert restored(optax.adam(0.1)) is not None
    with pytest.raises(train.CheckpointError, match="earlier version"):
        restored(optax.adamw(0.1))
    assert content(tmp_path) == before


@pytest.mark.parametrize(
    "error",
    [
        OSError(24, "Too many open files"),
        PermissionError(13, "Permission denied"),
        OSError(5, "Input/output error"),
        MemoryError(),
        ValueError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
)
def test_what_cannot_be_read_now_is_left_alone(error, saved, restored, tmp_path, monkeypatch):
    from orbax.checkpoint import CheckpointManager

    saved(optax.sgd(0.1))
    before = content(tmp_path)

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "restore", fail)
        with pytest.raises(train.CheckpointError, match="cannot read checkpoint"):
            restored(optax.sgd(0.1))
    assert content(tmp_path) == before and restored(optax.sgd(0.1)) is not None


def test_what_is_set_aside_is_never_deleted(saved, restored, tmp_path):
    """Not by damage to a later checkpoint of the same step."""
    optimizer = optax.sgd(0.1)
    for size in (1, 2, 3):
        saved(optimizer)
        for file in (tmp_path / "checkpoints" / "10").rglob("*"):
            if file.is_file():
                os.truncate(file, size)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert restored(optimizer) is None
        assert "is damaged" in str(caught[0].message)
    aside = tmp_path / "damaged-checkpoints"
    assert sorted(path.name for path in aside.iterdir()) == ["10", "10-2", "10-3"]
    sizes = [
        {f.stat().st_size for f in p.rglob("*") if f.is_file()} for p in sorted(aside.iterdir())
    ]
    assert sizes == [{1}, {2}, {3}]


def test_parts_end_and_are_the_same_every_time():
    """Also of optimizers that hold themselves, arrays, and functions wrapped by jit."""

    def loop(updates, state, params=None):
        return knot["update"](updates, state, params)

    knot = {"update": loop, "theta": np.ones(3), "jitted": jax.jit(loop)}
    optimizer = optax.GradientTransformation(lambda p: (), functools.partial(loop, params=None))
    found = _identity.parts(optimizer)
    assert found == _identity.parts(optimizer) and any("knot" not in part for part in found)
    assert _identity.parts(None) is None
