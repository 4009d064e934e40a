"""Artefacts are found by what made them; the compilation cache never stops a run."""

import dataclasses
import json
import os
import subprocess
import sys

import chex
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
        {"x": np.ones(2)},
        {"x": np.ones(2, np.float32)},
        {"x": np.ones((2, 1))},
        {"x": np.array([1.0, 1.0 + 1e-15])},
        {"x": jax.random.key(0)},
        {"x": jax.random.key(1)},
    ]
    folders = {train.artifact_directory(tmp_path, "a", spec) for spec in different}
    assert len(folders) == len(different)


@pytest.mark.parametrize(
    "spec",
    [{"a": print}, {"a": {1: 2}}, {"a": object()}, {"a": {3}}],
)
def test_what_has_no_canonical_form_is_refused(spec, tmp_path):
    with pytest.raises(TypeError, match=r"spec\.a"):
        train.artifact_directory(tmp_path, "a", spec)
    with pytest.raises(ValueError, match="not finite"):
        train.artifact_directory(tmp_path, "a", {"a": float("nan")})


def test_arrays_of_numpy_and_jax_are_one_spec(tmp_path):
    folders = {
        train.artifact_directory(tmp_path, "a", {"x": make([1.0, 2.0], "float32")})
        for make in (np.array, jnp.array)
    }
    assert len(folders) == 1


def test_what_is_kept_is_made_once_and_the_same_when_found(tmp_path):
    made = []

    def make(folder):
        made.append(folder)
        (folder / "note").write_text("inside its folder")
        return {"loss": np.float64(1) / 3, "deep": {"w": jnp.ones(2, jnp.bfloat16)}}

    first, second = (train.kept(tmp_path, "a", {"s": 1}, make, commit="abc") for _ in range(2))
    assert len(made) == 1 and (made[0] / "note").exists()
    chex.assert_trees_all_equal(first, second)
    assert first["loss"].dtype == np.float64 and first["deep"]["w"].dtype == jnp.bfloat16
    assert json.loads((made[0] / "done.json").read_text())["git"] == "abc"
    train.kept(tmp_path, "a", {"s": 2}, make)
    assert len(made) == 2


def test_a_maker_that_fails_leaves_no_artefact(tmp_path):
    with pytest.raises(ZeroDivisionError):
        train.kept(tmp_path, "a", {}, lambda folder: 1 / 0)
    assert train.kept(tmp_path, "a", {}, lambda folder: {"x": np.ones(1)})["x"] == 1


def test_round_trip(tmp_path):
    directory = train.artifact_directory(tmp_path, "model", {"seed": 0})
    assert train.load_artifact(directory) is None
    train.save_artifact(directory, PARAMS)
    loaded = train.load_artifact(directory)
    assert jax.tree.structure(loaded) == jax.tree.structure(PARAMS)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(PARAMS), strict=True):
        assert a.dtype == b.dtype and a.shape == b.shape
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert {p.name for p in directory.iterdir()} == {"spec.json", "arrays.npz", "done.json"}


@pytest.mark.parametrize("name", ["file", "allow_pickle", "name", "self", "a b", "ä", "x.npy"])
def test_arrays_may_have_any_name(name, tmp_path):
    tree = {name: np.arange(3.0), "more": {name: np.ones(2, jnp.bfloat16)}}
    train.save_artifact(tmp_path, tree)
    found = train.load_artifact(tmp_path)
    np.testing.assert_array_equal(found[name], tree[name])
    assert found["more"][name].dtype == jnp.bfloat16


def test_what_cannot_be_kept_leaves_the_artefact_before(tmp_path):
    train.save_artifact(tmp_path, PARAMS)
    for bad in ({"x": np.array([{}], object)}, {"__types__": np.ones(1)}, {"a/b": np.ones(1)}):
        with pytest.raises(ValueError):
            train.save_artifact(tmp_path, bad)
        assert train.load_artifact(tmp_path) is not None


def test_a_disk_that_loses_bytes_is_seen(tmp_path, monkeypatch):
    def lossy(path, content):
        path.write_bytes(content[:-1] + b"?" if isinstance(content, bytes) else content.encode())

    monkeypatch.setattr("ico.files._trees.write_atomically", lossy)
    with pytest.raises(OSError, match="does not hold what was written"):
        train.save_artifact(tmp_path, PARAMS)
    assert train.load_artifact(tmp_path) is None


@pytest.mark.parametrize("name", ["arrays.npz", "done.json"])
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


def test_no_home_turns_the_compilation_cache_off(monkeypatch, restore_cache_settings):
    """HOME unset, and a user that the system has no entry for, as in many containers."""
    import pwd

    for name in ("HOME", "ICO_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for path in (None, "~/cache"):
        with pytest.warns(UserWarning, match="off: .*home.*; set JAX_COMPILATION_CACHE_DIR"):
            assert train.enable_compilation_cache(path) is None


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
