"""Reading and writing files: replacement in one step, JSON, and trees of arrays in one .npz.

Every reader of JSON and .npz in `ico` goes through here. Whatever bytes a file holds, a reader
returns or raises `FileError`, which names the file, and needs memory in proportion to its size.

Also a cache of what takes long to make, and which commit the code in a folder is at, since results
and artefacts record it.
"""

from ico.files._cache import cache_folder, cached
from ico.files._commit import commit_of
from ico.files._read import FileError, check_fields, parse_json, read_bytes, read_json, read_text
from ico.files._trees import (
    flatten,
    load_tree,
    pack_arrays,
    save_tree,
    unflatten,
    unpack_arrays,
)
from ico.files._write import write_atomically

__all__ = [
    "FileError",
    "cache_folder",
    "cached",
    "check_fields",
    "commit_of",
    "flatten",
    "load_tree",
    "pack_arrays",
    "parse_json",
    "read_bytes",
    "read_json",
    "read_text",
    "save_tree",
    "unflatten",
    "unpack_arrays",
    "write_atomically",
]
