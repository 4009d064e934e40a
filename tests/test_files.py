"""Files are whole or absent, and trees come back as they were."""

import json
import os
import subprocess
import tracemalloc
import zipfile

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


def nested(depth):
    tree = {"a": 1.0}
    for _ in range(depth - 1):
        tree = {"a": tree}
    return tree


@pytest.mark.parametrize(
    "tree", [{}, {"a": {}}, {"a/b": 1}, {1: 2}, {"": 1}, [1], 3, nested(101), nested(5000)]
)
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


@hypothesis.given(st.lists(st.sampled_from(["a", "b", "a/b", "a/b/c", "", "/", "b/"]), unique=True))
def test_unflattening_refuses_what_flattening_cannot_give(paths):
    """Either the paths come back in some order, or the error is a ValueError."""
    try:
        tree = files.unflatten(dict.fromkeys(paths, 1.0))
    except ValueError:
        return
    assert sorted(files.flatten(tree)) == sorted(paths) if paths else tree == {}


def test_a_tree_as_deep_as_allowed_comes_back(tmp_path):
    files.save_tree(tmp_path / "t.npz", nested(100))
    chex.assert_trees_all_equal(files.load_tree(tmp_path / "t.npz"), nested(100))


def test_numpy_reads_what_we_write_and_we_read_what_it_writes(tmp_path):
    arrays = {"w": np.arange(6.0).reshape(2, 3).T, "s": np.array(["ab", "c"]), "n": np.int32(3)}
    (tmp_path / "ours.npz").write_bytes(files.pack_arrays(arrays | {"file": np.ones(2)}))
    np.savez(tmp_path / "theirs.npz", **arrays)
    theirs = files.unpack_arrays((tmp_path / "theirs.npz").read_bytes())
    with np.load(tmp_path / "ours.npz") as ours:
        for name, array in arrays.items():
            for found in (ours[name], theirs[name]):
                assert found.dtype == array.dtype
                np.testing.assert_array_equal(found, array)
    theirs["w"][0] = 1  # whoever reads may write
    assert files.pack_arrays(arrays) == (tmp_path / "theirs.npz").read_bytes()


def npz(path, header, content=b"", compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        text = header.encode().ljust(118 - 1) + b"\n"
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00v\x00" + text + content)


@pytest.mark.parametrize(
    "descr, shape, words",
    [
        ("<f4", (10**12,), "does not fit"),
        ("<f4", (-1,), "does not fit"),
        ("<f4", (10**30, 0), "dimension"),
        ("<U0", (10**12,), "numbers and strings"),
        ("|O", (1,), "numbers and strings"),
        ([("a", "<f4")], (2,), "numbers and strings"),
    ],
)
def test_a_header_that_asks_for_too_much_is_refused(tmp_path, descr, shape, words):
    npz(tmp_path / "t.npz", repr({"descr": descr, "fortran_order": False, "shape": shape}))
    tracemalloc.start()
    with pytest.raises(files.FileError, match=rf"t\.npz is no .*{words}"):
        files.load_tree(tmp_path / "t.npz")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


def test_a_compressed_npz_is_refused_before_it_is_unpacked(tmp_path):
    np.savez_compressed(tmp_path / "t.npz", w=np.zeros(10**6))
    with pytest.raises(files.FileError, match="compressed"):
        files.load_tree(tmp_path / "t.npz")


JSON = {
    "deep": ("[" * 100_000, "nested"),
    "deep and closed": ("[" * 101 + "]" * 101, "nested"),
    "long integer": ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
    "half a pair": ('{"a": "\\ud800"}', "surrogates"),
    "latin-1": (b'{"a": "\xe9"}', "utf-8"),
    "cut": ('{"a": [1, 2', "damaged"),
    "empty": ("", "damaged"),
    "a list": ("[1]", "must hold an object"),
}


@pytest.mark.parametrize("name", JSON)
def test_json_that_is_refused(tmp_path, name):
    content, words = JSON[name]
    path = tmp_path / "some.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(files.FileError, match=words) as caught:
        files.read_json(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**200), 10**200) | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@hypothesis.given(VALUES, st.booleans())
def test_all_that_python_writes_is_read(value, ascii_only):
    text = json.dumps(value, ensure_ascii=ascii_only)
    assert json.dumps(files.parse_json(text, "it", object)) == json.dumps(value)


def test_brackets_in_strings_do_not_nest():
    value = {"a": '["\\[' * 1000, "b\\": "[" * 1000}
    assert files.parse_json(json.dumps(value), "it") == value


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e999"])
def test_infinities_are_refused_where_asked(text):
    files.parse_json(text, "it", float)
    with pytest.raises(files.FileError, match="finite"):
        files.parse_json(text, "it", float, finite=True)


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError):
        files.read_json(tmp_path / "absent")
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(files.FileError, match="not a regular file"):
            files.read_bytes(path)
    (tmp_path / "large").write_bytes(b"1" * 100)
    with pytest.raises(files.FileError, match="large has 100 bytes"):
        files.read_json(tmp_path / "large", max_bytes=99)
    with pytest.raises(files.FileError, match="large/below cannot be read"):
        files.read_json(tmp_path / "large" / "below")


def test_fields_have_their_types():
    found = {"a": 1, "b": True, "c": None}
    assert files.check_fields(found, "it", {"a": float, "b": bool, "c": (str, type(None))}) is found
    with pytest.raises(files.FileError, match="an integer"):
        files.check_fields({"a": 2**64}, "it", {"a": int})
    for fields in ({"d": object}, {"b": int}, {"b": float}, {"c": str}, {"a": (list, dict)}):
        with pytest.raises(files.FileError, match=f"it is damaged: .*{next(iter(fields))!r}"):
            files.check_fields(found, "it", fields)
    with pytest.raises(files.FileError, match="no object"):
        files.check_fields([], "it", {})


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
