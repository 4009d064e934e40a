"""A run folder gives its configuration, results and models back."""

import json
import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico._run import load_run
from ico.train import artifact_directory, save_artifact


class Small(nn.Module):
    features: tuple[int, ...] = (3,)

    @nn.compact
    def __call__(self, x):
        for width in self.features:
            x = nn.Dense(width)(x)
        return x


@pytest.fixture
def models(monkeypatch):
    fake = types.ModuleType("ico.models")
    fake.Small, fake.secret, fake.__all__ = Small, Small, ["Small"]
    monkeypatch.setitem(sys.modules, "ico.models", fake)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"seed": 3}))
    return tmp_path


def add_model(folder, name, spec, params):
    directory = artifact_directory(folder / "checkpoints", name, spec)
    save_artifact(directory, params)
    return directory


def test_model_runs_as_it_was_trained(folder, models):
    model = Small((4, 2))
    params = model.init(jax.random.key(0), jnp.ones((1, 5)))["params"]
    spec = {"model": {"class": "Small", "arguments": {"features": (4, 2)}}, "seed": 1}
    add_model(folder, "small", spec, {"params": params, "history": {"loss": jnp.ones(3)}})
    add_model(folder, "plain", {"seed": 1}, {"w": jnp.ones(2)})
    artifact_directory(folder / "checkpoints", "unfinished", {})
    run = load_run(folder)
    assert run.config == {"seed": 3} and run.results is None
    assert set(run.models) == {"small", "plain"}
    loaded = run.models["small"]
    assert loaded.spec["seed"] == 1 and run.models["plain"].model is None
    x = jax.random.normal(jax.random.key(1), (6, 5))
    np.testing.assert_array_equal(
        loaded.model.apply({"params": loaded.params}, x), model.apply({"params": params}, x)
    )


def test_two_of_one_name_keep_their_hashes(folder):
    directories = [add_model(folder, "m", {"seed": i}, {"w": jnp.ones(1)}) for i in range(2)]
    assert set(load_run(folder).models) == {d.name for d in directories}


def test_results_are_read(folder):
    (folder / "results.json").write_text('{"claims": []}')
    assert load_run(folder).results == {"claims": []}


def test_missing_or_foreign_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run folder"):
        load_run(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="not a run folder"):
        load_run(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "results.json"])
@pytest.mark.parametrize("text", ["{", "[]", "\x00"])
def test_damaged_json_is_named(name, text, folder):
    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        load_run(folder)


@pytest.mark.parametrize(
    "spec", [{"class": "secret"}, {"class": "Small", "arguments": {"wdth": 1}}, "Small"]
)
def test_spec_of_no_model_is_refused(spec, folder, models):
    add_model(folder, "m", {"model": spec}, {"params": {"w": jnp.ones(1)}})
    with pytest.raises(ValueError, match=r"spec\.json"):
        load_run(folder)
