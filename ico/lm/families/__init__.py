"""Model families: how published files become a decoder's configuration and parameters.

A family is one file here that defines a `Family`, and its entry in `FAMILIES`.
"""

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

__all__ = ["FAMILIES", "Family", "GgufHeader", "family_of", "find_family"]


def family_of(config: DecoderConfig) -> Family:
    """The family that a configuration names.

    Raises:
      WeightFileError: there is none of that name; the message lists those there are.
    """
    return find_family(gguf_architecture=config.family)


def find_family(*, gguf_architecture=None, model_type=None) -> Family:
    """The family of a GGUF file's `general.architecture` or of a config.json's `model_type`.

    Raises:
      WeightFileError: no family has that name; the message lists those that are known.
    """
    if model_type is None:
        if isinstance(gguf_architecture, str) and gguf_architecture in FAMILIES:
            return FAMILIES[gguf_architecture]
        what, known = f"architecture {gguf_architecture!r}", sorted(FAMILIES)
    else:
        by_type = {kind: family for family in FAMILIES.values() for kind in family.model_types}
        if isinstance(model_type, str) and model_type in by_type:
            return by_type[model_type]
        what, known = f"model_type {model_type!r}", sorted(by_type)
    raise WeightFileError(f"{what} is not supported (known: {', '.join(known)})")
