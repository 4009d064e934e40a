"""Files are whole or absent, and trees come back as they were."""

import os
import subprocess

import chex
import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from ico import files

KEYS = st.text(st.characters(blacklist_characters="/"), min_size=1, max_size=5)
LEAVES = st.sampled_from([np.float32(1.5), np.arange(6).reshape(2, 3), np.zeros((0, 2)), True])
TREES = st.recursive(
    st.dictionaries(KEYS, LEAVES, min_size=1, max_size=3),
    lambda inner: st.dictionaries(KEYS, inner, min_size=1, max_size=2),
    max_leaves=6,
)


@hypothesis.given(TREES)
def test_flattening_is_undone(tree):
    flat = files.flatten(tree)
    chex.assert_trees_all_equal(files.unflatten(flat), tree)


@pytest.mark.parametrize("tree", [{}, {"a": {}}, {"a/b": 1}, {1: 2}, {"": 1}, [1], 3])
def test_what_no_file_can_hold_is_refused(tree):
    with pytest.raises(ValueError):
        files.flatten(tree)


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e4m3fn", "float32", "int32", "bool", "<U3"])
def test_trees_come_back_with_their_types(tmp_path, dtype):
    if dtype == "<U3":
        leaf = np.array(["abc", "d"])
    else:
        leaf = np.asarray(jnp.arange(6).reshape(2, 3).astype(dtype))
    tree = {"block": {"w": leaf, "scalar": leaf.ravel()[0], "empty": leaf[:0]}}
    digest = files.save_tree(tmp_path / "t.npz", tree)
    back = files.load_tree(tmp_path / "t.npz", digest)
    for name, array in tree["block"].items():
        found = back["block"][name]
        assert found.dtype == leaf.dtype and found.shape == np.shape(array)
        assert found.tobytes() == np.asarray(array).tobytes()


def test_equal_trees_give_equal_bytes_and_others_do_not(tmp_path):
    tree = {"w": np.arange(3.0)}
    assert files.save_tree(tmp_path / "a.npz", tree) == files.save_tree(tmp_path / "b.npz", tree)
    assert files.save_tree(tmp_path / "c.npz", {"w": np.arange(4.0)}) != files.save_tree(
        tmp_path / "a.npz", tree
    )


def test_changed_bytes_are_seen(tmp_path):
    path = tmp_path / "t.npz"
    digest = files.save_tree(path, {"w": np.arange(3.0)})
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="changed"):
        files.load_tree(path, digest)
    with pytest.raises(ValueError, match="npz"):
        files.unpack_arrays(b"nonsense")


def test_objects_are_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="'bad' holds objects"):
        files.save_tree(tmp_path / "t.npz", {"bad": np.array([{}], dtype=object)})
    assert list(tmp_path.iterdir()) == []


def test_an_error_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_atomically(path, "old")

    def fail(*_):
        raise OSError("no space")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        files.write_atomically(path, "new")
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_commit_of_a_folder(tmp_path):
    def git(*words):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True, capture_output=True)

    assert files.commit_of(tmp_path) == "unknown"
    git("init")
    (tmp_path / "a.py").write_text("1")
    git("add", ".")
    git("-c", "user.name=n", "-c", "user.email=e", "commit", "-m", "first")
    clean = files.commit_of(tmp_path)
    assert len(clean) >= 7 and "dirty" not in clean
    (tmp_path / "notes.txt").write_text("no code")
    assert files.commit_of(tmp_path) == clean
    (tmp_path / "a.py").write_text("2")
    assert files.commit_of(tmp_path) == f"{clean}-dirty"
    inside = tmp_path / "site-packages" / "ico"
    inside.mkdir(parents=True)
    assert files.commit_of(inside) == "unknown"
