"""The error raised for files that cannot be read."""

import contextlib
from collections.abc import Iterator

from ico.files import FileError


class WeightFileError(FileError):
    """A file of weights, configuration or tokens that is damaged, hostile or not supported.

    Raised before anything of a size that the file asks for is allocated.
    """


def one_line(error: BaseException, longest: int = 200) -> str:
    """An error's message in one line, cut to `longest` characters."""
    return " ".join(str(error).split())[:longest]


@contextlib.contextmanager
def as_weight_file_errors() -> Iterator[None]:
    """Raises WeightFileError for what the readers of `ico.files` raise."""
    try:
        yield
    except FileNotFoundError as error:
        raise WeightFileError(f"there is no {error.filename}") from None
    except FileError as error:
        raise error if isinstance(error, WeightFileError) else WeightFileError(str(error)) from None
