"""The door to TensorFlow Datasets, without TensorFlow: a set by its name, or one sentence."""

import contextlib
import importlib
import logging
import os
import urllib.parse
from collections.abc import Iterator
from typing import Any
from unittest import mock

_DOWNLOADER = "tensorflow_datasets.core.download.downloader"
# Each retry waits twice as long as the one before: TFDS's ten take 204 s, these three.
_RETRIES = 4
# Sets whose module TFDS has, but does not import by itself.
_UNREGISTERED = {"wikipedia": "tensorflow_datasets.text.wikipedia"}


def tfds_source(name: str, split: str, data_dir: str | os.PathLike | None = None) -> Any:
    """The examples of a set, as a sequence; downloaded and prepared at first use.

    Args:
      name: such as "fashion_mnist" or "wikipedia/20230601.en".
      split: of the set, such as "train".
      data_dir: where prepared sets lie; None is TFDS's own folder ($TFDS_DATA_DIR, or
        ~/tensorflow_datasets).

    Raises:
      ImportError: tensorflow-datasets is not installed.
      ValueError: TFDS knows no such set, configuration or split.
      FileNotFoundError: the set is not in that folder and cannot be downloaded or prepared.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"TFDS set {name!r} needs tensorflow-datasets; install ico[data]"
        ) from error
    family = name.split("/")[0].split(":")[0]
    if family in _UNREGISTERED:
        importlib.import_module(_UNREGISTERED[family])
    folder = None if data_dir is None else os.fspath(data_dir)
    try:
        with _few_retries():
            source: Any = tfds.data_source(name, data_dir=folder, download=True)
    except tfds.core.registered.DatasetNotFoundError:
        raise ValueError(f"TFDS knows no set {family!r}") from None
    except ValueError as error:  # of a name: "BuilderConfig ... not found"
        raise ValueError(f"TFDS set {name!r}: {_sentence(error)}") from error
    except Exception as error:  # errors of requests, of Beam, of manual downloads ...
        where = data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets"
        raise FileNotFoundError(
            f"TFDS set {name!r} is not in {where} and cannot be prepared there "
            f"({_sentence(error)}); prepare it where that works and give its folder as data_dir"
        ) from error
    if split in source:
        return source[split]
    try:  # a part, such as "train[:10%]"
        return tfds.data_source(name, split=split, data_dir=folder, download=False)
    except Exception as error:
        raise ValueError(
            f"TFDS set {name!r} has no split {split!r}, but {', '.join(source)}"
        ) from error


@contextlib.contextmanager
def _few_retries() -> Iterator[None]:
    """Gives up soon where there is no network, and without a page of warnings."""
    downloader, logger = importlib.import_module(_DOWNLOADER), logging.getLogger("urllib3")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with mock.patch.object(downloader, "MAX_RETRIES", _RETRIES, create=True):
            yield
    finally:
        logger.setLevel(before)


def _sentence(error: Exception) -> str:
    if url := getattr(getattr(error, "request", None), "url", None):
        return f"no connection to {urllib.parse.urlsplit(str(url)).netloc}"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:200].rstrip(".")
