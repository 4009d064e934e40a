"""Model families: how published files become a decoder's configuration and parameters.

A family is one file here that defines a `Family`, and its entry in `FAMILIES`.
"""

from collections.abc import Mapping
from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm._errors import WeightFileError
from ico.lm.families._family import Family
from ico.lm.families._gemma3 import GEMMA3
from ico.lm.families._gguf_header import GgufHeader
from ico.lm.families._gpt2 import GPT2
from ico.lm.families._llama import LLAMA
from ico.lm.families._qwen2 import QWEN2
from ico.lm.families._qwen3 import QWEN3

FAMILIES: dict[str, Family] = {
    family.name: family for family in (GEMMA3, GPT2, LLAMA, QWEN2, QWEN3)
}

__all__ = [
    "FAMILIES",
    "Family",
    "GgufHeader",
    "family_of",
    "family_of_architecture",
    "family_of_model_type",
]


def family_of(config: DecoderConfig) -> Family:
    """The family that a configuration names.

    Raises:
      WeightFileError: there is none of that name; the message lists those there are.
    """
    return _find("family", config.family, FAMILIES)


def family_of_architecture(architecture: Any) -> Family:
    """The family of a GGUF file's `general.architecture`.

    Raises:
      WeightFileError: no family has that name; the message lists those that are known.
    """
    return _find("architecture", architecture, FAMILIES)


def family_of_model_type(model_type: Any) -> Family:
    """The family of a config.json's `model_type`.

    Raises:
      WeightFileError: no family has that name; the message lists those that are known.
    """
    known = {kind: family for family in FAMILIES.values() for kind in family.model_types}
    return _find("model_type", model_type, known)


def _find(what: str, name: Any, known: Mapping[str, Family]) -> Family:
    if isinstance(name, str) and name in known:
        return known[name]
    raise WeightFileError(f"{what} {name!r} is not supported (known: {', '.join(sorted(known))})")
