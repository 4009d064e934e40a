"""English text from packages: what is kept of a page, and byte pairs that give it back."""

import numpy as np
import pytest

from ico import data

PAGE = """
:mod:`thing` --- A thing
========================

.. module:: thing
   :synopsis: Things, many of them, described at some length so that it would count as prose.

This module does *something* with :class:`~thing.Thing` objects and ``other`` names, which is a
sentence that is long enough to be kept.

>>> import thing  # a doctest, which is no prose whatever its length may be, and must be left out.

   x = compute(thing[0], 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21).

Short.
"""


def test_pages_give_their_sentences(tmp_path):
    (tmp_path / "a.rst.txt").write_text(PAGE)
    (tmp_path / "b.rst").write_text("Nothing here.\n")
    (text,) = data.python_docs(tmp_path)
    assert text == (
        "This module does something with thing.Thing objects and other names, which is a sentence "
        "that is long enough to be kept."
    )


def test_without_pages_the_error_says_how_to_get_them(tmp_path):
    with pytest.raises(FileNotFoundError, match="python3-doc"):
        data.python_docs(tmp_path)


def test_byte_pairs_give_the_text_back():
    texts = ["The first of them. ünïcode", "And a second, the first's friend."]
    tokenizer = data.train_bpe(texts * 20, 300)
    ids = data.tokens(texts, tokenizer)
    assert ids.dtype == np.int32 and ids.max() < 300
    assert tokenizer.decode(ids.tolist()) == "\n".join(texts) + "\n"
    assert len(ids) < sum(map(len, texts))


def test_the_topics_of_cpython_are_there():
    topics = data.pydoc_topics()
    assert len(topics) > 50 and sum(map(len, topics)) > 300_000


@pytest.mark.parametrize(
    ("text", "rows"),
    [("abcdefghi", ["abcde", "efghi"]), ("abcdefg", ["abcde"]), ("abcd", []), ("", [])],
)
def test_rows_of_tokens_go_on_where_the_last_one_ended(text, rows):
    ids = np.array([ord(c) for c in text], np.int32)
    found = data.token_rows(ids, 4)
    assert found.shape == (len(rows), 5) and found.dtype == np.int32
    assert ["".join(map(chr, row)) for row in found] == rows
