"""Writes transformers_config_types.json: the types that transformers checks config.json against.

Since version 5 transformers refuses a config.json with a value of another type. Needs transformers,
which is no requirement of this repository:

    python tests/data/make_transformers_config_types.py
"""

import json
import types
import typing
from pathlib import Path

MODEL_TYPES = ("gemma3_text", "gpt2", "llama", "qwen2", "qwen3")


def types_of(model_type: str) -> dict[str, list[str]]:
    """Field -> the names of its types, for the fields that the model itself adds."""
    import transformers

    config = type(transformers.AutoConfig.for_model(model_type))
    own = {field: hint for field, hint in config.__annotations__.items() if field[0] != "_"}
    found = {}
    for field, hint in own.items():
        union = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        found[field] = sorted({(typing.get_origin(one) or one).__name__ for one in union})
    return found


def main() -> None:
    """Writes the file beside this one."""
    import transformers

    known = {name: types_of(name) for name in MODEL_TYPES}
    path = Path(__file__).with_name("transformers_config_types.json")
    rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(found)}" for name, found in known.items())
    version = json.dumps(transformers.__version__)
    path.write_text(f'{{"transformers": {version}, "types": {{\n{rows}\n}}}}\n')


if __name__ == "__main__":
    main()
