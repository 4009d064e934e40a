"""A decoder's configuration from a config.json or a GGUF header, and back to a config.json."""

import dataclasses
import reprlib
from typing import Any

import numpy as np

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError, one_line
from ico.lm.families import (
    GgufHeader,
    family_of,
    family_of_architecture,
    family_of_model_type,
)

# Fields that a config.json gives in another form (a rotary base and a method of context extension;
# the square of a scale), so that they come back with another rounding.
_ROUNDED = {"query_scale", "embed_scale", "frequencies", "local_frequencies", "rope_scale"}
# What absurd values in a file can raise before a check names the culprit.
_SENSELESS = (TypeError, AttributeError, ValueError, ArithmeticError, MemoryError, RecursionError)


def from_hf(config: dict[str, Any]) -> DecoderConfig:
    """The configuration in a config.json as transformers writes it.

    Raises:
      WeightFileError: another architecture, or a variant that the decoder does not compute.
    """
    text = config.get("text_config")
    if isinstance(text, dict):  # a multimodal model: its text half
        config = {"tie_word_embeddings": config.get("tie_word_embeddings", True), **text}
    family = family_of_model_type(config.get("model_type"))
    try:
        return family.from_hf(config)
    except WeightFileError:
        raise
    except KeyError as error:
        raise WeightFileError(f"config.json lacks {error}") from None
    except _SENSELESS as error:
        raise WeightFileError(f"config.json makes no sense: {one_line(error)}") from None


def from_gguf(metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> DecoderConfig:
    """The configuration in a GGUF file's metadata.

    Args:
      metadata: keys and values of the file's header.
      tensors: names and shapes [out, in]; they decide vocabulary, tied head and biases.

    Raises:
      WeightFileError: another architecture, or a field that is missing or makes no sense.
    """
    family = family_of_architecture(metadata.get("general.architecture"))
    try:
        return family.from_gguf(GgufHeader(family.name, metadata, tensors))
    except WeightFileError:
        raise
    except _SENSELESS as error:
        raise WeightFileError(f"its metadata makes no sense: {one_line(error)}") from None


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """A config.json that transformers and `from_hf` read as this configuration.

    It is read back and compared: rotary angles and scales to seven digits, as many as the decoder
    computes with, and every other field exactly.

    Raises:
      ValueError: a config.json of the configuration's family cannot describe it.
    """
    if dict(config.rope).get("rope_type") == "factors":
        raise ValueError("this model's rotary factors cannot be written to a config.json")
    described = family_of(config).to_hf(config)
    try:
        again = from_hf(described)
    except WeightFileError as error:
        raise ValueError(f"no config.json of {config.family!r} describes it: {error}") from None
    for field in dataclasses.fields(config):
        value, found = getattr(config, field.name), getattr(again, field.name)
        same = _close(value, found) if field.name in _ROUNDED else value == found
        if field.name != "rope" and not same:
            raise ValueError(
                f"a config.json of {config.family!r} cannot describe "
                f"{field.name}={reprlib.repr(value)}; it would be read as {reprlib.repr(found)}"
            )
    return described


def _close(value, found) -> bool:
    """Whether numbers, or tuples of as many numbers, are the same in float32."""
    value, found = np.asarray(value, np.float32), np.asarray(found, np.float32)
    return value.shape == found.shape and np.allclose(value, found, rtol=1e-6, atol=0)
