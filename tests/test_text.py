"""English text from packages: what is kept of a page, and byte pairs that give it back."""

import chex
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


def ids_of(text):
    return [ord(letter) for letter in text]


def test_rows_stay_inside_a_text_unless_joined():
    rows = data.text_rows(["abcde", "f", "ghij"], ids_of, 2)
    assert ["".join(map(chr, row)) for row in rows.ids] == ["ab", "cd", "gh", "ij"]
    np.testing.assert_array_equal(rows.text, [0, 0, 2, 2])
    joined = data.text_rows(["abcde", "f", "ghij"], ids_of, 2, joined=True)
    assert "".join(map(chr, joined.ids.ravel())) == "abcdefghij"


@pytest.mark.parametrize("joined", [False, True])
@pytest.mark.parametrize("overlap", [0, 1, 3])
def test_rows_share_the_overlap_and_lose_nothing_between_them(overlap, joined):
    rows = data.text_rows(["abcdefghijklm"], ids_of, 5, overlap=overlap, joined=joined)
    targets = rows.ids[1:, overlap:]  # behind what the row shares with the one before
    flat = np.concatenate([rows.ids[0], targets.ravel()])
    np.testing.assert_array_equal(flat, ids_of("abcdefghijklm")[: len(flat)])
    assert 13 - len(flat) < 5 - overlap
    chex.assert_type(rows.ids, np.int32)


def test_texts_are_read_only_as_far_as_needed_and_too_few_are_refused():
    def endless():
        while True:
            yield "abcd"

    chex.assert_shape(data.text_rows(endless(), ids_of, 3, num_rows=7).ids, (7, 3))
    for wanted in (3, None):
        with pytest.raises(ValueError, match="rows of 9 tokens"):
            data.text_rows(["abc"], ids_of, 9, num_rows=wanted)
    with pytest.raises(ValueError, match="overlap"):
        data.text_rows(["abc"], ids_of, 2, overlap=2)
