"""What lies on disk is whole, or is not trusted."""

import errno
import os
import shutil
import subprocess

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import train
from ico.train.checkpoint import Checkpoints

CONFIG = train.LoopConfig(num_steps=40, steps_per_call=10, checkpoint_every=10, keep=3)


@pytest.fixture
def finished(program, tmp_path):
    """A folder with checkpoints of steps 20, 30 and 40, and the result of the run."""
    directory = tmp_path / "run"
    return directory, program.run(directory, "stream", CONFIG)


def checkpoint(directory, step):
    return directory / "checkpoints" / str(step)


def truncate(path):
    for file in path.rglob("*"):
        if file.is_file():
            os.truncate(file, file.stat().st_size // 2)


def overwrite(path):
    for file in path.rglob("*"):
        if file.is_file():
            file.write_bytes(b"garbage" * 20)


def empty(path):
    shutil.rmtree(path)
    path.mkdir()


def drop_data(path):
    shutil.rmtree(path / "state")


def drop_record(path):
    shutil.rmtree(path / "record")


@pytest.mark.parametrize("damage", [truncate, overwrite, empty, drop_data, drop_record])
def test_damaged_newest_falls_back_and_ends_the_same(damage, program, finished):
    directory, expected = finished
    damage(checkpoint(directory, 40))
    with pytest.warns(UserWarning, match="40 is damaged .* falling back to step 30") as caught:
        result = program.run(directory, "stream", CONFIG)
    assert [("\n" in str(w.message)) for w in caught] == [False]
    np.testing.assert_array_equal(result.state.params["w"], expected.state.params["w"])
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])
    assert (directory / "damaged-checkpoints" / "40").is_dir()
    assert checkpoint(directory, 40).is_dir()


def test_changed_bytes_are_found(program, finished, monkeypatch):
    directory, expected = finished
    saved = Checkpoints(directory / "checkpoints", keep=3)
    restore = saved._manager.restore
    flipped = []

    def flip(step, args):
        items = restore(step, args=args)
        if "state" in args and step == 40:
            flipped.append(step)
            state = items["state"]
            params = {**state.params, "w": state.params["w"].at[0].add(1e-6)}
            return {"state": state._replace(params=params)}
        return items

    monkeypatch.setattr(saved._manager, "restore", flip)
    with pytest.warns(UserWarning, match="the bytes of params/w have changed"):
        state, position = saved.restore(expected.state)
    saved.close()
    assert flipped == [40]
    assert state.step.tolist() == [30, 30] and position == {"next": 30}


def test_all_damaged_starts_from_scratch_and_says_so(program, finished):
    directory, expected = finished
    for step in (20, 30, 40):
        truncate(checkpoint(directory, step))
    with pytest.warns(UserWarning) as caught:
        result = program.run(directory, "stream", CONFIG)
    assert "starting from scratch" in str(caught[-1].message)
    assert len(caught) == 3
    np.testing.assert_array_equal(result.state.params["w"], expected.state.params["w"])
    np.testing.assert_array_equal(result.history["loss"], expected.history["loss"])


def test_keeps_n(finished):
    directory, _ = finished
    assert {p.name for p in (directory / "checkpoints").iterdir()} == {"20", "30", "40"}


def test_typed_keys_and_types_round_trip(program, finished):
    directory, expected = finished
    saved = Checkpoints(directory / "checkpoints", keep=3)
    state, position = saved.restore(expected.state)
    saved.close()
    assert position == {"next": 40}
    assert jax.tree.structure(state) == jax.tree.structure(expected.state)
    assert state.key.dtype == expected.state.key.dtype
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected.state), strict=True):
        assert a.dtype == b.dtype and bool(jnp.all(a == b))


def test_another_model_is_refused_by_leaf(program, finished):
    directory, _ = finished
    wide = lambda key: {"w": jax.random.normal(key, (7, 1)), "b": jnp.zeros(1)}  # noqa: E731
    keys = jax.random.split(jax.random.key(0), 2)
    state = train.init_state(wide, program.OPTIMIZER, keys)
    with pytest.raises(train.CheckpointError, match=r"'params/w' is float32\[2, 4, 1\] there"):
        train.fit(program.STEP, state, program.sample, CONFIG, directory=directory)


def test_another_seed_is_refused(program, finished):
    directory, _ = finished
    with pytest.raises(train.CheckpointError, match="another key"):
        train.fit(
            program.STEP, program.new_state(seed=1), program.sample, CONFIG, directory=directory
        )


def test_shorter_run_is_refused(program, finished):
    directory, _ = finished
    short = train.LoopConfig(num_steps=30, steps_per_call=10)
    with pytest.raises(train.CheckpointError, match="beyond num_steps 30"):
        program.run(directory, "stream", short)


def no_space(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_full_disk_names_the_folder_and_leaves_nothing_to_trust(program, tmp_path, monkeypatch):
    from orbax.checkpoint import CheckpointManager

    save, calls = CheckpointManager.save, []

    def full(self, step, **options):
        calls.append(step)
        return no_space() if step == 20 else save(self, step, **options)

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointManager, "save", full)
        with pytest.raises(train.CheckpointError, match="No space left") as caught:
            program.run(tmp_path, "stream", CONFIG)
    assert str(tmp_path / "checkpoints") in str(caught.value)
    assert {p.name for p in (tmp_path / "checkpoints").iterdir()} == {"10"}
    expected = program.run(tmp_path.with_name("whole"), "stream", CONFIG)
    result = program.run(tmp_path, "stream", CONFIG)
    np.testing.assert_array_equal(result.state.params["w"], expected.state.params["w"])


@pytest.fixture
def tiny_disk(tmp_path):
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True)
    except OSError:
        pytest.skip("no mount command")
    if done.returncode:
        pytest.skip("may not mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_really_full_disk(program, tiny_disk, capfd):
    config = train.LoopConfig(num_steps=400, steps_per_call=10, checkpoint_every=10, keep=40)
    with pytest.raises(train.CheckpointError, match="No space left") as caught:
        program.run(tiny_disk / "run", "stream", config)
    assert str(tiny_disk / "run") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "absl" not in capfd.readouterr().err
    names = [path.name for path in (tiny_disk / "run" / "checkpoints").iterdir()]
    assert names and all(name.isdigit() for name in names)
    subprocess.run(["mount", "-o", "remount,size=50m", str(tiny_disk)], check=True)
    state, _ = program.run(tiny_disk / "run", "stream", config)
    assert state.step.tolist() == [400, 400]


def test_metrics_on_a_full_disk(program, tmp_path, monkeypatch):
    from ico.train import _log

    monkeypatch.setattr(_log, "_encode", no_space)
    with pytest.raises(train.CheckpointError, match=r"metrics\.jsonl: .*No space left"):
        program.run(tmp_path, "stream", CONFIG)


@pytest.mark.parametrize("where", ["run", "run/checkpoints", "run/metrics.jsonl"])
def test_folder_that_cannot_be_written(where, program, tmp_path):
    path = tmp_path / where
    path.parent.mkdir(exist_ok=True)
    # Tests may run as root, whom permissions do not stop: something of the wrong kind does.
    path.mkdir() if where.endswith(".jsonl") else path.write_text("a file")
    with pytest.raises(train.CheckpointError, match="cannot") as caught:
        program.run(tmp_path / "run", "stream", CONFIG)
    assert str(tmp_path / "run") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_damaged_metrics_line_is_named(program, finished):
    directory, _ = finished
    path = directory / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0], "nonsense\n", *lines[2:]]))
    with pytest.raises(train.CheckpointError, match="line 2 is damaged"):
        program.run(directory, "stream", CONFIG)


def test_missing_metrics_warn(program, finished):
    directory, _ = finished
    (directory / "metrics.jsonl").unlink()
    with pytest.warns(UserWarning, match="the history has a gap"):
        program.run(directory, "stream", CONFIG)
