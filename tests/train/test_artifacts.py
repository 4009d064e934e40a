"""Artefacts are found by what made them; the compilation cache never stops a run."""

import dataclasses
import json
import os
import subprocess
import sys

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ico import train

PARAMS = {
    "layer": {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3, jnp.bfloat16)},
    "count": jnp.array(3, jnp.int32),
}


@dataclasses.dataclass(frozen=True)
class Task:
    dim: int = 5
    scale: float = 1.0


@dataclasses.dataclass(frozen=True)
class OtherTask:
    dim: int = 5
    scale: float = 1.0


numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
specs = st.dictionaries(
    st.text(), st.recursive(numbers | st.text() | st.none() | st.booleans(), st.lists), max_size=4
)


@hypothesis.settings(max_examples=8)
@given(specs)
def test_hash_does_not_depend_on_order_and_survives_json(tmp_path_factory, spec):
    root = tmp_path_factory.mktemp("root")
    directory = train.artifact_directory(root, "a", spec)
    shuffled = dict(reversed(list(spec.items())))
    assert train.artifact_directory(root, "a", shuffled) == directory
    stored = json.loads((directory / "spec.json").read_text())
    assert train.artifact_directory(root, "a", stored) == directory


def test_hash_is_fixed(tmp_path):
    # A change here orphans every artefact on disk.
    directory = train.artifact_directory(tmp_path, "a", {"task": Task(), "steps": 10, "x": (1, 2)})
    assert directory.name == "a-7ae74b17d77a"


def test_hash_sees_every_change(tmp_path):
    different = [
        {"task": Task()},
        {"task": OtherTask()},
        {"task": Task(dim=6)},
        {"task": Task(scale=1.0000001)},
        {"task": Task(), "seed": None},
        {"seed": [1, [2]]},
        {"seed": [[1], 2]},
        {"seed": "1"},
        {"seed": 1},
        {"seed": True},
    ]
    folders = {train.artifact_directory(tmp_path, "a", spec) for spec in different}
    assert len(folders) == len(different)


@pytest.mark.parametrize(
    "spec",
    [{"a": np.ones(2)}, {"a": {1: 2}}, {"a": np.float32(1)}, {"a": {3}}, {"a": jnp.ones(())}],
)
def test_what_has_no_canonical_form_is_refused(spec, tmp_path):
    with pytest.raises(TypeError, match=r"spec\.a"):
        train.artifact_directory(tmp_path, "a", spec)
    with pytest.raises(ValueError, match="not finite"):
        train.artifact_directory(tmp_path, "a", {"a": float("nan")})


def test_round_trip(tmp_path):
    directory = train.artifact_directory(tmp_path, "model", {"seed": 0})
    assert train.load_artifact(directory) is None
    train.save_artifact(directory, PARAMS)
    loaded = train.load_artifact(directory)
    assert jax.tree.structure(loaded) == jax.tree.structure(PARAMS)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(PARAMS), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert {p.name for p in directory.iterdir()} == {"spec.json", "params.npz", "done.json"}


@pytest.mark.parametrize("name", ["params.npz", "done.json"])
def test_damaged_artefact_warns_and_is_none(name, tmp_path):
    train.save_artifact(tmp_path, PARAMS)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 0xFF
    (tmp_path / name).write_bytes(data)
    with pytest.warns(UserWarning, match="is damaged and not used"):
        assert train.load_artifact(tmp_path) is None
    (tmp_path / name).write_bytes(b"")
    with pytest.warns(UserWarning, match="is damaged and not used"):
        assert train.load_artifact(tmp_path) is None


@pytest.mark.parametrize("params", [{"a/b": 1.0}, {"a": [1.0]}, 1.0, {"a": {}}])
def test_other_trees_are_refused(params, tmp_path):
    with pytest.raises(ValueError, match="nested"):
        train.save_artifact(tmp_path, params)


@pytest.fixture
def restore_cache_settings():
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_compilation_cache_is_used(tmp_path, python):
    code = (
        "import sys, jax; from ico.train import enable_compilation_cache as e; "
        "assert jax.config.jax_compilation_cache_dir is None; print(e());"
        "jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0);"
        "jax.jit(lambda x: x * 2)(1.0)"
    )
    import os

    env = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    env |= {"ICO_CACHE_DIR": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = python("-c", code, env=env)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(tmp_path / "xla")
    assert list((tmp_path / "xla").iterdir())


def test_unwritable_compilation_cache_only_warns(tmp_path, restore_cache_settings):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="compilation cache is off"):
        assert train.enable_compilation_cache(tmp_path / "file" / "xla") is None


def test_import_is_light():
    code = (
        "import sys, ico.train; "
        "print([m for m in ('orbax', 'tensorboardX', 'tqdm', 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_an_artefact_that_was_interrupted_begins_anew(tmp_path):
    """Its spec.json tells when; one that is done keeps its time."""
    folder = train.artifact_directory(tmp_path, "one", {"a": 1})
    os.utime(folder / "spec.json", (1_000, 1_000))
    train.artifact_directory(tmp_path, "one", {"a": 1})
    assert (folder / "spec.json").stat().st_mtime > 2_000
    train.save_artifact(folder, PARAMS)
    os.utime(folder / "spec.json", (1_000, 1_000))
    train.artifact_directory(tmp_path, "one", {"a": 1})
    assert (folder / "spec.json").stat().st_mtime == 1_000
