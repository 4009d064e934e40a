"""Images by class, the episodes drawn from them, and letters of many scripts."""

import zipfile

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from ico import data
from ico.data import _letters
from ico.data._letters import _different, _draw, _matplotlib_letters
from ico.files import FileError


def numbered(K=6, N=9, size=4):
    """Classes whose images say which class and which image they are."""
    pixels = np.zeros((K, N, size, size, 1), np.uint8)
    pixels[..., 0, 0, 0] = np.arange(K)[:, None]
    pixels[..., 0, 1, 0] = np.arange(N)[None]
    return data.ClassImages.of({f"class {k}": pixels[k] for k in range(K)})


def read(x):
    """Class and image number of flattened pixels from -1 to 1."""
    return np.round((np.asarray(x)[..., :2] + 1) * 127.5).astype(int)


def test_an_episode_draws_classes_and_images_without_replacement():
    images, config = numbered(), data.FewShot(4, 2, 1, 3, num_tasks=5)
    config.check(images)
    prompt, y_query = data.few_shot(jax.random.key(0), config, images.arrays)
    chex.assert_shape((prompt.x, prompt.y), [(5, 12, 16), (5, 12, 4)])
    chex.assert_shape((prompt.x_query, y_query), [(5, 12, 16), (5, 12, 4)])
    for b in range(5):
        support, query = read(prompt.x[b]), read(prompt.x_query[b])
        classes = support.reshape(4, 3, 2)[:, :, 0]
        assert (classes == classes[:, :1]).all() and len(set(classes[:, 0])) == 4
        assert (query.reshape(4, 3, 2)[:, :, 0] == classes[:, :1]).all()
        for k in range(4):  # no image twice, in support and queries together
            numbers = [*support.reshape(4, 3, 2)[k, :, 1], *query.reshape(4, 3, 2)[k, :, 1]]
            assert len(set(numbers)) == 6
        np.testing.assert_array_equal(y_query[b].argmax(-1), np.repeat(np.arange(4), 3))
        known = prompt.y[b].reshape(4, 3, 4)
        np.testing.assert_array_equal(
            known[:, :2].argmax(-1), np.repeat([[0], [1], [2], [3]], 2, 1)
        )
        assert not known[:, 2].any()


def test_every_class_image_and_place_is_drawn_equally_often():
    images, config = numbered(5, 4), data.FewShot(2, 1, 0, 1, num_tasks=3000)
    prompt, _ = data.few_shot(jax.random.key(1), config, images.arrays)
    found = read(prompt.x)
    for place in range(2):
        counts = np.bincount(found[:, place, 0] * 4 + found[:, place, 1], minlength=20)
        expected = 3000 / 20
        assert ((counts - expected) ** 2 / expected).sum() < 50  # chi squared, 19 degrees: p 1e-4


def test_classes_with_few_images_are_drawn_from_those_that_they_have():
    pixels = np.ones((7, 4, 4, 1), np.uint8)
    images = data.ClassImages.of({"few": pixels[:3], "many": 2 * pixels})
    config = data.FewShot(2, 1, 0, 2, num_tasks=50)
    config.check(images)
    episode = data.few_shot(jax.random.key(0), config, images.arrays)
    assert set(read(episode.prompt.x_query)[..., 0].ravel()) == {1, 2}  # never the filling, 0
    with pytest.raises(ValueError, match="class 'few' has 3"):
        data.FewShot(2, 1, 0, 3).check(images)
    with pytest.raises(ValueError, match="3 ways need as many classes, and there are 2"):
        data.FewShot(3, 1, 0, 1).check(images)


def test_a_turned_class_is_a_class_of_its_own_and_turned_as_a_whole():
    pixels = np.zeros((1, 5, 3, 3, 1), np.uint8)
    pixels[:, :, 0, 0] = 255  # a corner tells the quarters apart
    images = data.ClassImages.of({"corner": pixels[0]})
    config = data.FewShot(4, 1, 0, 2, num_tasks=6, rotations=True)
    config.check(images)
    prompt, _ = data.few_shot(jax.random.key(0), config, images.arrays)
    corners = {0: 0, 2: 1, 8: 2, 6: 3}
    for b in range(6):
        support = [corners[int(i)] for i in prompt.x[b].argmax(-1)]
        assert sorted(support) == [0, 1, 2, 3]
        queries = [corners[int(i)] for i in prompt.x_query[b].argmax(-1)]
        assert queries == list(np.repeat(support, 2))


def test_no_host_loop_and_one_trace():
    images = numbered()
    config = data.FewShot(3, 1, 0, 2, 2, True, data.Distortion(turn=0.1, elastic=0.05))
    sample = jax.jit(chex.assert_max_traces(data.few_shot, n=1), static_argnums=1)
    first, second = (sample(jax.random.key(s), config, images.arrays) for s in (0, 1))
    again = sample(jax.random.key(0), config, images.arrays)
    chex.assert_trees_all_equal(first, again)
    assert (first.prompt.x != second.prompt.x).any()


@pytest.mark.parametrize(
    "fields", [{"way": 1}, {"shot": 0}, {"unlabeled": -1}, {"queries": 0}, {"num_tasks": 0}]
)
def test_sizes_out_of_range_are_refused(fields):
    with pytest.raises(ValueError, match=next(iter(fields))):
        data.FewShot(**fields)


def test_splits_have_no_class_in_common_and_keep_alphabets_whole():
    images = data.ClassImages.of(
        {f"{g}{k}": np.full((2, 2, 2, 1), k, np.uint8) for g in "abcd" for k in range(3)},
        {f"{g}{k}": g for g in "abcd" for k in range(3)},
    )
    parts = images.split(0.5, 0.25, seed=3)
    assert [len(p.names) for p in parts] == [6, 3, 3]
    assert sorted(sum((p.names for p in parts), ())) == sorted(images.names)
    first, second = images.split(0.5, by_group=True)
    assert len(first.all_groups) == len(second.all_groups) == 2
    assert not set(first.all_groups) & set(second.all_groups)
    assert images.of_groups("b").names == ("b0", "b1", "b2")
    with pytest.raises(ValueError, match="no group 'x'"):
        images.of_groups("x")
    with pytest.raises(ValueError, match="shares"):
        images.split(0.5, 0.5)
    with pytest.raises(ValueError, match="too few"):
        images.split(0.01)


def test_arrays_of_any_kind_make_classes():
    floats = np.random.default_rng(0).random((3, 4, 4, 1))
    assert data.ClassImages.of({"a": floats}).pixels.dtype == np.uint8
    digits = data.ClassImages.of_labelled(data.digit_images())
    assert digits.pixels.shape == (10, 183, 8, 8, 1) and digits.counts.sum() == 1797
    for bad in [{}, {"a": floats[:0]}, {"a": floats, "b": floats[:, :2]}]:
        with pytest.raises(ValueError):
            data.ClassImages.of(bad)


def test_a_distortion_of_nothing_is_the_identity_and_a_shift_moves():
    images = jax.random.uniform(jax.random.key(0), (2, 6, 6, 1))
    key = jax.random.key(1)
    np.testing.assert_array_equal(data.distort(key, images, data.Distortion()), images)
    tiny = data.distort(key, images, data.Distortion(1e-7, 1e-7, 1e-7, 1e-7, 1e-7))
    np.testing.assert_allclose(tiny, images, atol=1e-4)
    dot = jnp.zeros((200, 21, 21, 1)).at[:, 10, 10].set(1)
    moved = data.distort(key, dot, data.Distortion(shift=0.1))
    rows = (moved.sum((2, 3)) * jnp.arange(21)[None]).sum(1) / moved.sum((1, 2, 3))
    np.testing.assert_allclose(rows.std(), 2.1, rtol=0.2)  # a tenth of 21 pixels
    with pytest.raises(ValueError, match="turn"):
        data.Distortion(turn=-1.0)


def test_letters_are_hundreds_of_classes_no_two_of_which_look_alike():
    images = data.letters(16, 4)
    assert len(images.names) > 900 and set(images.all_groups) <= set(data.SCRIPTS)
    assert (
        images.pixels.shape[1:] == (4, 16, 16, 1) and (images.pixels.max((1, 2, 3, 4)) > 100).all()
    )
    # Greek and Cyrillic letters that look like Latin ones are no classes of their own.
    assert {"A", "Ж", "Δ"} <= set(images.names) and not set("ΑАΒВΟО") & set(images.names)
    # A nearest-mean classifier tells drawings of unseen letters apart.
    config = data.FewShot(5, 1, 0, 3, 100)
    prompt, y = data.few_shot(jax.random.key(0), config, images.arrays)
    gaps = ((prompt.x_query[:, :, None] - prompt.x[:, None]) ** 2).sum(-1)
    assert 0.5 < (gaps.argmin(-1) == y.argmax(-1)).mean() < 0.95


def test_twins_are_found_when_turned():
    first = next(iter(_matplotlib_letters()))
    path = first[2][0]
    found = _different([("x", letter, [path]) for letter in "AΑadɐp"])
    assert [letter for _, letter, _ in found] == ["A", "a", "d"]  # the others are these, turned
    assert _draw(path, ".", 56) is None


def omniglot_files(folder):
    for alphabet, character in [
        ("Greek", "character01"),
        ("Greek", "character02"),
        ("Latin", "c1"),
    ]:
        for drawer in range(2):
            path = folder / alphabet / character / f"{drawer}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            ink = np.full((105, 105), 255, np.uint8)
            ink[50:55] = 0
            Image.fromarray(ink).convert("1").save(path)


def test_omniglot_reads_folders_and_zips_and_counts_an_alphabet_once(tmp_path):
    omniglot_files(tmp_path / "plain")
    plain = data.omniglot(tmp_path / "plain", 21)
    assert plain.pixels.shape == (3, 2, 21, 21, 1) and plain.all_groups == ("Greek", "Latin")
    assert plain.pixels[0, 0, 10, 10, 0] == 255 and plain.pixels[0, 0, 0, 0, 0] == 0
    for name in ("images_background_small1", "images_background_small2"):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for path in (tmp_path / "plain").glob("*/*/*.png"):
                archive.write(path, f"{name}/{path.relative_to(tmp_path / 'plain')}")
    zipped = data.omniglot(tmp_path, 21)
    np.testing.assert_array_equal(zipped.of_groups("Greek").pixels, plain.of_groups("Greek").pixels)
    (tmp_path / "images_evaluation.zip").write_bytes(b"no zip")
    with pytest.raises(FileError, match="images_evaluation"):
        data.omniglot(tmp_path)
    with pytest.raises(FileNotFoundError, match="Omniglot"):
        data.omniglot(tmp_path / "nothing")


def test_omniglot_comes_through_tfds(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=6):
        found = data.omniglot(size=14)
    assert found.pixels.shape[2:] == (14, 14, 1) and found.counts.sum() == 12
    assert all(name.startswith(f"{g}/") for name, g in zip(found.names, found.groups, strict=True))


def test_letters_are_a_tfds_set(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    whole = data.letters()
    builder = data.tfds_letters(data_dir=str(tmp_path))
    builder.download_and_prepare(file_format="array_record")
    source = builder.as_data_source(split="train")
    assert len(source) == whole.counts.sum()
    example = source[777]
    label, script = int(example["label"]), builder.info.features["script"].int2str
    assert script(int(example["script"])) == whole.groups[label]
    assert any(np.array_equal(example["image"], image) for image in whole.pixels[label])
    images = data.tfds_images("letters", "train[:40]", eight_bits=True, data_dir=tmp_path)
    assert images.pixels.shape == (40, 28, 28, 1)


def test_letters_are_drawn_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ICO_CACHE_DIR", str(tmp_path))
    arguments = {"size": 12, "drawings": 2}
    drawn = data.letters.__wrapped__(**arguments)
    (file,) = tmp_path.glob("letters/*.npz")
    before = file.read_bytes()
    monkeypatch.setattr(_letters, "_all_drawn", None)  # not drawn again
    kept = data.letters.__wrapped__(**arguments)
    assert (kept.names, kept.groups) == (drawn.names, drawn.groups)
    chex.assert_trees_all_equal(kept.arrays, drawn.arrays)
    # A damaged file is made anew.
    monkeypatch.undo()
    monkeypatch.setenv("ICO_CACHE_DIR", str(tmp_path))
    file.write_bytes(before[: len(before) // 2])
    chex.assert_trees_all_equal(data.letters.__wrapped__(**arguments).arrays, drawn.arrays)
    assert file.read_bytes() == before


def test_a_folder_of_photographs(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        Image.new("RGB", (30, 20), "red").save(tmp_path / name / "1.png")
    images = data.image_folder(tmp_path, 8)
    assert images.pixels.shape == (2, 1, 8, 8, 3) and images.names == ("cat", "dog")
    with pytest.raises(FileNotFoundError, match="one for each class"):
        data.image_folder(tmp_path / "cat")
    (tmp_path / "dog" / "2.png").write_bytes(b"no image")
    with pytest.raises(FileError, match=r"2\.png cannot be read"):
        data.image_folder(tmp_path, 8)


def test_an_odd_zip_of_omniglot_is_refused(tmp_path):
    for name, message in (("cat/1.png", "is no <alphabet>"), ("A/cat/1.png", "cannot be read")):
        with zipfile.ZipFile(tmp_path / "images_background.zip", "w") as archive:
            archive.writestr(name, b"no image")
        with pytest.raises(FileError, match=message):
            data.omniglot(tmp_path)
