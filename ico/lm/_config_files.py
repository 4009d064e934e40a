"""A decoder's configuration from a config.json or a GGUF header, and back to a config.json."""

import dataclasses
from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError
from ico.lm.families import (
    GgufHeader,
    family_of,
    family_of_architecture,
    family_of_model_type,
)

# Fields that a config.json describes in another form (a rotary base and a method of context
# extension; a rounded scale), so that they are not compared after a round trip.
_DESCRIBED_OTHERWISE = {"query_scale", "frequencies", "local_frequencies", "rope_scale", "rope"}


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
    except KeyError as error:
        raise WeightFileError(f"config.json lacks {error}") from None
    except (TypeError, AttributeError) as error:
        raise WeightFileError(f"config.json: {error}") from None


def from_gguf(metadata: dict[str, Any], tensors: dict[str, tuple[int, ...]]) -> DecoderConfig:
    """The configuration in a GGUF file's metadata.

    Args:
      metadata: keys and values of the file's header.
      tensors: names and shapes [out, in]; they decide vocabulary, tied head and biases.

    Raises:
      WeightFileError: another architecture, or a field that is missing or makes no sense.
    """
    family = family_of_architecture(metadata.get("general.architecture"))
    return family.from_gguf(GgufHeader(family.name, metadata, tensors))


def to_hf(config: DecoderConfig) -> dict[str, Any]:
    """A config.json that transformers and `from_hf` read as this configuration.

    Raises:
      ValueError: a config.json of the configuration's family cannot describe it.
    """
    if dict(config.rope).get("rope_type") == "factors":
        raise ValueError("this model's rotary factors cannot be written to a config.json")
    described = family_of(config).to_hf(config)
    again = from_hf(described)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if field.name not in _DESCRIBED_OTHERWISE and getattr(again, field.name) != value:
            raise ValueError(
                f"a config.json of {config.family!r} cannot describe {field.name}={value!r}"
            )
    return described
