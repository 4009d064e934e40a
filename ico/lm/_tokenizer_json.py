"""Tokenizers from a tokenizer.json and the files beside it."""

import json
from pathlib import Path
from typing import Any

from ico.files import parse_json, read_bytes, read_json
from ico.lm._errors import WeightFileError, as_weight_file_errors
from ico.lm._tokenizer import Tokenizer, library_errors

_LARGEST = 64 * 2**20  # bytes; Gemma 3's tokenizer.json has 33 million


def from_json(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json; the files beside it name the special tokens.

    Raises:
      WeightFileError: a file cannot be parsed, or names a token that the tokenizer lacks.
    """
    from tokenizers import Tokenizer as Backend

    with as_weight_file_errors():
        described = parse_json(read_bytes(path, _LARGEST), path)
        settings = {
            name: read_json(path.parent / name)
            for name in ("generation_config.json", "config.json", "tokenizer_config.json")
            if (path.parent / name).is_file()
        }
    _refuse_subword_prefix(path, described)
    # Settings for training batches. Padding to an absurd length would end the process.
    described |= {"truncation": None, "padding": None}
    with library_errors(f"{path} is no tokenizer"):
        # Written anew, so that the library sees what was checked (a key may be there twice).
        backend = Backend.from_str(json.dumps(described, ensure_ascii=False))
        around = backend.encode("a", add_special_tokens=True).ids
    bos_ids, eos_ids = (_ids(path, backend, settings, which) for which in ("bos", "eos"))
    bos_id = bos_ids[0] if bos_ids else None
    # Whether a token is put in front is decided by the post-processor, not by the settings.
    adds_bos = bool(around) and bos_id is not None and around[0] == bos_id
    try:
        return Tokenizer(backend, bos_id=bos_id, eos_ids=eos_ids, adds_bos=adds_bos)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None


def _refuse_subword_prefix(path: Path, described: dict[str, Any]) -> None:
    """Refuses a BPE whose pieces inside a word have a prefix: no family that is read here has one.

    The library cuts the prefix off every such piece and panics, or ends the process, where a piece
    does not begin with it.
    """
    model = described.get("model")
    if not isinstance(model, dict):
        raise WeightFileError(f"{path} is no tokenizer: it has no model")
    if model.get("type", "BPE") == "BPE" and model.get("continuing_subword_prefix"):
        raise WeightFileError(f"{path}: BPE with a prefix of subwords is not supported")


def _ids(path: Path, backend, settings: dict[str, dict[str, Any]], which: str) -> list[int]:
    """Ids of the tokens that begin ("bos") or end ("eos") a text, by the files beside it.

    The tokenizer's own comes first. Those of generation_config.json stand in for config.json's.
    """
    found = []
    own = settings.get("tokenizer_config.json", {})
    token = own.get(f"{which}_token")
    token = token.get("content") if isinstance(token, dict) else token
    if isinstance(token, str) and (token_id := backend.token_to_id(token)) is not None:
        found.append(token_id)
    key = f"{which}_token_id"
    for name in ("tokenizer_config.json", "generation_config.json", "config.json"):
        ids = settings.get(name, {}).get(key)
        if ids is None:
            continue
        for token_id in ids if isinstance(ids, list) else [ids]:
            if not isinstance(token_id, int) or isinstance(token_id, bool):
                raise WeightFileError(f"{path.parent / name}: {key} {token_id!r} is no token id")
            found.append(token_id)
        if name == "generation_config.json":
            break
    return list(dict.fromkeys(found))
