"""Images on disk and drawn, and the door to those of TFDS."""

import gzip
import importlib
import socket

import numpy as np
import pytest

from ico import data


def test_digits_are_images_of_ten_classes():
    images = data.digit_images()
    assert images.pixels.shape == (1797, 8, 8, 1) and images.pixels.dtype == np.float32
    assert (images.pixels.min(), images.pixels.max()) == (0, 1)
    late = images.of_classes(range(5, 10))
    assert set(late.labels) == set(range(5)) and len(late.pixels) == (images.labels >= 5).sum()


def test_shrinking_takes_means_of_four_pixels():
    images = data.digit_images()
    small = images.shrunk()
    np.testing.assert_allclose(small.pixels[3, 1, 2, 0], images.pixels[3, 2:4, 4:6, 0].mean())
    with pytest.raises(ValueError, match="even"):
        data.Images(np.zeros((1, 3, 4, 1), np.float32), np.zeros(1, np.int32)).shrunk()


def idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


def test_fashion_mnist_reads_idx_files(tmp_path):
    pixels = np.arange(2 * 4 * 4, dtype=np.uint8).reshape(2, 4, 4)
    idx(tmp_path / "t10k-images-idx3-ubyte.gz", pixels)
    idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.array([3, 7], np.uint8))
    images = data.fashion_mnist("test", tmp_path)
    np.testing.assert_allclose(images.pixels[..., 0] * 255, pixels, rtol=1e-6)
    assert images.labels.tolist() == [3, 7]
    with pytest.raises(FileNotFoundError, match="dataset-fashion-mnist"):
        data.fashion_mnist("train", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(b"not an idx file"))
    with pytest.raises(ValueError, match="not an idx file"):
        data.fashion_mnist("test", tmp_path)


def test_the_real_fashion_mnist_where_it_is_installed():
    try:
        images = data.fashion_mnist("test")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    assert images.pixels.shape == (10_000, 28, 28, 1)
    assert (np.bincount(images.labels) == 1000).all()


def test_glyphs_are_the_same_every_time_and_differ_by_class():
    """A nearest-mean classifier tells distorted characters apart, twice above chance."""
    images, again = (data.glyphs("AΩЖ8", 12, copies=8) for _ in range(2))
    np.testing.assert_array_equal(images.pixels, again.pixels)
    assert images.pixels.shape == (12 * 4 * 8, 12, 12, 1)
    assert images.pixels.min() >= 0 and images.pixels.max() <= 1
    other = data.glyphs("AΩЖ8", 12, copies=2, seed=1)
    means = np.stack([images.pixels[images.labels == k].mean(0) for k in range(4)])
    gaps = ((other.pixels[:, None] - means[None]) ** 2).sum((2, 3, 4))
    assert (gaps.argmin(1) == other.labels).mean() > 0.5
    with pytest.raises(ValueError, match="different"):
        data.glyphs("AA")
    with pytest.raises(ValueError, match="has no"):
        data.glyphs("漢")


def test_images_of_any_tfds_set():
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=5):
        images = data.tfds_images("fashion_mnist", "train", size=14, count=3)
        raw = data.tfds_images("fashion_mnist", "train", size=14, count=3, eight_bits=True)
        whole = data.tfds_images("mnist", "test")
    assert images.pixels.shape == (3, 14, 14, 1) and images.labels.shape == (3,)
    assert raw.pixels.dtype == np.uint8 and raw.pixels.max() > 1
    assert raw.of_classes(range(10)).pixels.dtype == np.uint8
    assert whole.pixels.shape == (5, 28, 28, 1) and whole.pixels.max() <= 1


def test_sets_of_tfds_by_their_documented_names():
    """Wikipedia too, whose module TFDS does not import by itself."""
    tfds = pytest.importorskip("tensorflow_datasets")
    with tfds.testing.mock_data(num_examples=3):
        texts = list(data.tfds_texts("wikipedia/20230601.en"))
        part = data.tfds_images("mnist", "train[:2]")
        with pytest.raises(ValueError, match="has no 'words', but .*text"):
            data.tfds_texts("wikipedia/20230601.en", feature="words")
        with pytest.raises(ValueError, match="no images with labels, but"):
            data.tfds_images("wikipedia/20230601.en", "train")
    assert len(texts) == 3 and all(isinstance(text, str) for text in texts)
    assert len(part.labels) in (2, 3)  # what is mocked has as many in every part
    for name in ("nonsense", "wikipedia/nonsense"):
        with pytest.raises(ValueError, match="nonsense") as caught:
            data.tfds_texts(name)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["fashion_mnist", "imagenet2012"])
def test_without_a_network_a_set_fails_at_once_in_one_sentence(name, tmp_path, monkeypatch):
    pytest.importorskip("tensorflow_datasets")
    tfds_door = importlib.import_module("ico.data._tfds")
    assert sum(0.2 * 2**i for i in range(1, tfds_door._RETRIES)) < 5  # seconds between retries
    monkeypatch.setattr(tfds_door, "_RETRIES", 0)

    def no_network(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(FileNotFoundError, match="data_dir") as caught:
        data.tfds_images(name, "train", data_dir=tmp_path)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def numbered(count):
    pixels = np.arange(count, dtype=np.float32).reshape(-1, 1, 1, 1) / count
    return data.Images(pixels, np.arange(count, dtype=np.int32))


def test_parts_are_all_of_the_images():
    images = numbered(11).shuffled(3)
    assert sorted(images.labels) == list(range(11)) and (images.labels != range(11)).any()
    np.testing.assert_allclose(images.pixels[:, 0, 0, 0], images.labels / 11, rtol=1e-6)
    parts = images.split(1 / 2, 1 / 4)
    assert [len(part.labels) for part in parts] == [5, 2, 4]
    np.testing.assert_array_equal(np.concatenate([p.labels for p in parts]), images.labels)
    np.testing.assert_array_equal(np.concatenate([p.pixels for p in parts]), images.pixels)
    np.testing.assert_array_equal(images.first(3).labels, images.labels[:3])
    assert len(images.first(100).labels) == 11
    with pytest.raises(ValueError, match="at most one"):
        images.split(0.8, 0.3)


def test_bytes_keep_pixels_to_half_a_step():
    images = data.digit_images()
    small = images.in_bytes()
    assert small.pixels.dtype == np.uint8 and small.in_bytes() is small
    assert np.abs(small.pixels / 255 - images.pixels).max() <= 0.5 / 255 + 1e-6


def test_images_by_name():
    late = data.images("digits 5-9")
    np.testing.assert_array_equal(late.pixels, data.digit_images().of_classes(range(5, 10)).pixels)
    greek = data.images("Greek", size=8, copies=1)
    assert greek.pixels.shape[1:] == (8, 8, 1) and set(greek.labels) == set(range(24))
    letters = data.images("letters", size=14, copies=1)
    assert letters.pixels.shape[1:] == (8, 8, 1) and set(letters.labels) == set(range(10))
    with pytest.raises(KeyError, match="Klingon"):
        data.images("Klingon")
