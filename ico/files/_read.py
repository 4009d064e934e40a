"""Readers that bound what a file can ask for: bytes, text and JSON."""

import json
import math
import os
import re
import stat
from collections.abc import Mapping
from typing import Any

import numpy as np

_LARGEST_JSON = 64 * 2**20
_DEEPEST = 100  # nested lists and dicts; far from Python's recursion limit, far above any need
_LONGEST_INTEGER = 300  # digits: a float can hold as many
_JSON_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_JSON_NAMES = {dict: "an object", list: "a list", str: "a string", bool: "true or false"}
_JSON_NAMES |= {int: "an integer", float: "a number", type(None): "null"}


class FileError(ValueError):
    """A file whose content is damaged, hostile or of another kind; the message names the file."""


def read_bytes(path: str | os.PathLike, max_bytes: int | None = None) -> bytes:
    """The content of a regular file.

    Args:
      path: of the file.
      max_bytes: a larger file is refused before it is read; None allows any size.

    Raises:
      FileNotFoundError: there is no such file.
      FileError: it is a folder or a device, too large, or cannot be read.
    """
    try:
        # Before opening: opening a named pipe would wait for a writer.
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise FileError(f"{path} is not a regular file; give a file in its place")
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if max_bytes is not None and size > max_bytes:
                raise FileError(f"{path} has {size} bytes; at most {max_bytes} are read")
            return file.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FileError(f"{path} cannot be read ({error.strerror or error})") from error


def read_text(path: str | os.PathLike, max_bytes: int | None = None) -> str:
    """The content of a UTF-8 file. Raises FileNotFoundError and FileError, as `read_bytes`."""
    try:
        return read_bytes(path, max_bytes).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path} is not UTF-8 text (byte {error.start})") from None


def read_json(
    path: str | os.PathLike,
    want: type | tuple[type, ...] = dict,
    *,
    max_bytes: int = _LARGEST_JSON,
    finite: bool = False,
) -> Any:
    """The value in a JSON file.

    Args:
      path: of the file.
      want: the type or types that the value may have; `object` for any.
      max_bytes: a larger file is refused. Memory stays below about thirty times this.
      finite: whether NaN and infinities, which Python writes and reads, are refused.

    Raises:
      FileNotFoundError: there is no such file.
      FileError: it cannot be read, or `parse_json` refuses its content.
    """
    return parse_json(read_bytes(path, max_bytes), path, want, finite=finite)


def parse_json(
    content: bytes | str,
    name: str | os.PathLike,
    want: type | tuple[type, ...] = dict,
    *,
    finite: bool = False,
) -> Any:
    """The value that a JSON text holds.

    Args:
      content: the text; bytes are UTF-8.
      name: what the message of an error names: the file, and perhaps the line.
      want, finite: as for `read_json`.

    Raises:
      FileError: no JSON, lists and objects nested more than 100 deep, an integer of more than 300
        digits, a character that UTF-8 cannot encode, or a value of another type.
    """
    try:
        content = content.encode() if isinstance(content, str) else content
        if _depth(content) > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} deep")
        value = json.loads(
            content.decode("utf-8"),
            parse_int=_integer,
            parse_float=_finite_float if finite else None,
            parse_constant=_refuse_constant if finite else None,
        )
        if re.search(rb"\\u[dD][89a-fA-F]", content):  # half of a surrogate pair, perhaps
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FileError(f"{name} is damaged: {error}") from None
    if want is not object and not _is_of(value, want):
        raise FileError(f"{name} is damaged: it must hold {_type_names(want)}")
    return value


def check_fields(
    found: Any, name: str | os.PathLike, fields: Mapping[str, type | tuple[type, ...]]
) -> dict[str, Any]:
    """Checks that a value from JSON is an object with certain fields, and returns it.

    Args:
      found: the value.
      name: what the message of an error names: the file, and perhaps the place in it.
      fields: name -> the type or types that its value may have. `float` allows integers; integers
        have at most 64 bits, as in arrays; `int` and `float` do not allow booleans; `object` allows
        everything.

    Raises:
      FileError: not an object, or a field is missing or of another type.
    """
    if not isinstance(found, dict):
        raise FileError(f"{name} is damaged: it holds no object")
    for field, want in fields.items():
        if field not in found:
            raise FileError(f"{name} is damaged: it has no field {field!r}")
        if want is not object and not _is_of(found[field], want):
            raise FileError(f"{name} is damaged: {field!r} must be {_type_names(want)}")
    return found


def _depth(content: bytes) -> int:
    """How deep lists and objects are nested, at most. Counted, since a parser would recurse."""
    outside = np.frombuffer(_JSON_STRING.sub(b"", content), np.uint8)
    opened = ((outside == ord("[")) | (outside == ord("{"))).astype(np.int32)
    closed = (outside == ord("]")) | (outside == ord("}"))
    return int(np.cumsum(opened - closed, dtype=np.int32).max(initial=0))


def _integer(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise ValueError(f"an integer of {len(text)} digits; at most {_LONGEST_INTEGER} are read")
    return int(text)


def _finite_float(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is not finite")
    return value


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not finite")


def _is_of(value: Any, want: type | tuple[type, ...]) -> bool:
    types = want if isinstance(want, tuple) else (want,)
    if isinstance(value, bool):
        return bool in types
    if isinstance(value, int):
        return bool({int, float} & set(types)) and value.bit_length() <= 64
    return isinstance(value, types)


def _type_names(want: type | tuple[type, ...]) -> str:
    types = want if isinstance(want, tuple) else (want,)
    return " or ".join(_JSON_NAMES.get(one, one.__name__) for one in types)
