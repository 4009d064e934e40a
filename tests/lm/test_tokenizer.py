"""Tokenizers from a GGUF file's metadata and from a tokenizer.json."""

import json
import tracemalloc

import pytest

from ico.lm import WeightFileError
from ico.lm._tokenizer_gguf import from_gguf
from ico.lm._tokenizer_json import from_json

SENTENCE_PIECE = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": "<unk> <s> </s> <0x0A> <0xC3> <0xA9> ▁ a b ab ▁a ▁ab".split()
    + ["<start_of_turn>"],
    "tokenizer.ggml.scores": [0, 0, 0, 0, 0, 0, -9.0, -7.0, -8.0, -1.0, -2.0, -3.0, 0],
    "tokenizer.ggml.token_type": [2, 3, 3, 6, 6, 6, 1, 1, 1, 1, 1, 1, 4],
    "tokenizer.ggml.bos_token_id": 1,
    "tokenizer.ggml.eos_token_id": 2,
    "tokenizer.ggml.unknown_token_id": 0,
}


@pytest.mark.parametrize(
    ("prefix", "text", "wanted"),
    [
        (True, "ab ab", [1, 11, 11]),
        (False, "ab ab", [1, 9, 11]),
        (False, "ba", [1, 8, 7]),
        (False, "a\né", [1, 7, 3, 4, 5]),  # no such pieces: bytes
        (False, "a<start_of_turn>b", [1, 7, 12, 8]),
        (False, "  a", [1, 6, 10]),
    ],
)
def test_sentence_piece_merges_by_score_and_falls_back_to_bytes(prefix, text, wanted):
    tokenizer = from_gguf({**SENTENCE_PIECE, "tokenizer.ggml.add_space_prefix": prefix})
    assert tokenizer.encode(text) == wanted
    assert tokenizer.decode(wanted[1:]) == text


def test_the_beginning_of_text_token_is_added_as_the_file_says_or_on_request():
    tokenizer = from_gguf({**SENTENCE_PIECE, "tokenizer.ggml.add_bos_token": False})
    assert tokenizer.encode("a") == [10] and tokenizer.encode("a", bos=True) == [1, 10]
    assert tokenizer.token(10) == " a" and tokenizer.token(7) == "a"


def test_the_file_it_writes_is_the_tokenizer_it_reads(tmp_path):
    tokenizer = from_gguf({**SENTENCE_PIECE, "tokenizer.ggml.add_space_prefix": False})
    path = tmp_path / "tokenizer.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    again = from_json(path)
    for text in ("ab ba\n", "é a", "<start_of_turn>"):
        assert again.encode(text) == tokenizer.encode(text, bos=False)


def test_a_continuation_is_tokenised_as_after_another_text():
    spaced = from_gguf(SENTENCE_PIECE)  # puts a space before a text, as Llama 2's
    assert spaced.encode("a ab") == [1, 10, 11]
    assert spaced.encode("a") + spaced.encode(" ab", continuation=True) == [1, 10, 11]
    assert spaced.encode("ab", continuation=True) == [9]
    assert spaced.encode(" ", continuation=True) == [6]
    assert spaced.decode([11], continuation=True) == " ab" and spaced.decode([11]) == "ab"
    plain = from_gguf({**SENTENCE_PIECE, "tokenizer.ggml.add_space_prefix": False})
    assert plain.encode(" ab", continuation=True) == [11] == plain.encode(" ab", bos=False)


def test_a_text_begins_after_saving_as_before(tmp_path):
    tokenizer = from_gguf(SENTENCE_PIECE)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"bos_token_id": 1}', encoding="utf-8")
    again = from_json(tmp_path / "tokenizer.json")
    assert again.adds_bos and again.encode("ab") == tokenizer.encode("ab") == [1, 11]


def test_settings_for_training_batches_do_not_cut_texts(tmp_path):
    tokenizer = from_gguf(SENTENCE_PIECE)
    tokenizer._tokenizer.enable_truncation(2)
    tokenizer._tokenizer.enable_padding(length=9)
    (tmp_path / "tokenizer.json").write_text(tokenizer.to_json(), encoding="utf-8")
    assert from_json(tmp_path / "tokenizer.json").encode("ab ab ab") == [11, 11, 11]


def test_metadata_that_does_not_match_is_refused(tmp_path):
    for change in (
        {"tokenizer.ggml.tokens": None},
        {"tokenizer.ggml.scores": [0.0]},
        {"tokenizer.ggml.token_type": [1]},
        {"tokenizer.ggml.bos_token_id": 99},
        {"tokenizer.ggml.model": "t5"},
        {"tokenizer.ggml.tokens": ["a" * 2_000, *SENTENCE_PIECE["tokenizer.ggml.tokens"][1:]]},
        {"tokenizer.ggml.unknown_token_id": 99},
        {"tokenizer.ggml.eot_token_id": -1},
        {"tokenizer.ggml.bos_token_id": None, "tokenizer.ggml.add_bos_token": True},
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["a"]},
        {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.merges": ["x y"]},
        {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.merges": ["a b"],
            "tokenizer.ggml.pre": "martian",
        },
    ):
        with pytest.raises(WeightFileError):
            from_gguf({**SENTENCE_PIECE, **change})
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(WeightFileError):
        from_json(tmp_path / "tokenizer.json")


def test_sentencepiece_itself_agrees(tmp_path):
    """Against a tokenizer that the original library trains on a few sentences."""
    spm = pytest.importorskip("sentencepiece")
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the quick brown fox number {n} jumps over it" for n in range(99)))
    spm.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "m"),
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
    )
    theirs = spm.SentencePieceProcessor(model_file=str(tmp_path / "m.model"))
    size = theirs.vocab_size()

    def kind(i):
        if theirs.is_control(i):
            return 3
        return 2 if theirs.is_unknown(i) else 6 if theirs.is_byte(i) else 1

    ours = from_gguf(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": [theirs.id_to_piece(i) for i in range(size)],
            "tokenizer.ggml.scores": [theirs.get_score(i) for i in range(size)],
            "tokenizer.ggml.token_type": [kind(i) for i in range(size)],
            "tokenizer.ggml.unknown_token_id": 0,
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.add_space_prefix": False,
        }
    )
    for sentence in ("the fox jumps", "  brown  it\n", "naïve 🦊 overjumps 12"):
        assert ours.encode(sentence) == theirs.encode(sentence)


# Text -> ids by transformers 5.24's Qwen2Tokenizer with the same tokens and merges.
QWEN2_IDS = {
    "ab ab abab 1234": [260, 261, 261, 260, 220, 16, 17, 18, 19],  # digits stay single
    "e\u0301 \u00e9": [263, 220, 263],  # an accent is composed with its letter
    "ab'Tab 'T": [260, 258, 260, 220, 6, 51],  # contractions in capitals
    "a.\n\nab  ab": [64, 13, 262, 260, 220, 261],
    "<x>12": [27, 87, 29, 16, 17],
}


def qwen2_metadata(pre):
    from tokenizers.pre_tokenizers import ByteLevel

    merges = ["1 2", "12 3", "' T", "Ġ a", "a b", "Ġa b", "Ċ Ċ", "Ã ©", ". Ċ", "Ġ Ġ", "ab ab"]
    tokens = [*sorted(ByteLevel.alphabet()), *(pair.replace(" ", "") for pair in merges)]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, "<|im_end|>"],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.eos_token_id": len(tokens),
    }


@pytest.mark.parametrize("text", QWEN2_IDS)
def test_the_tokenizer_of_qwen_is_that_of_transformers(text):
    tokenizer = from_gguf(qwen2_metadata("qwen2"))
    assert tokenizer.encode(text) == QWEN2_IDS[text]
    assert tokenizer.decode(QWEN2_IDS[text]) == text.replace("e\u0301", "\u00e9")


def test_pre_tokenizers_differ_and_an_unknown_one_is_told_the_known_ones():
    encoded = {pre: from_gguf(qwen2_metadata(pre)).encode("123") for pre in ("gpt-2", "qwen2")}
    assert encoded == {"gpt-2": [257], "qwen2": [16, 17, 18]}
    with pytest.raises(WeightFileError, match="martian.*gpt-2.*llama-bpe.*qwen2.*smollm"):
        from_gguf(qwen2_metadata("martian"))
    assert from_gguf(qwen2_metadata("qwen2")).encode("<|im_end|>") == [267]


# How "I'LL GO" is split: Llama 3 takes contractions in capitals, GPT-2 does not.
CAPITALS = {"gpt-2": ["I", "'", "LL", "ĠGO"], "llama-bpe": ["I", "'LL", "ĠGO"]}
LLAMA3_TOKENS = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]


def llama3_metadata(special=LLAMA3_TOKENS, **changes):
    """A GGUF file of Llama 3 in small; its pre-tokenizer is not named."""
    from tokenizers.pre_tokenizers import ByteLevel

    merges = ["L L", "' LL", "G O", "Ġ GO"]
    tokens = [*sorted(ByteLevel.alphabet()), *(pair.replace(" ", "") for pair in merges)]
    named = {f"tokenizer.ggml.{name}": value for name, value in changes.items()}
    return {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": [*tokens, *special],
        "tokenizer.ggml.token_type": [1] * len(tokens) + [3] * len(special),
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": len(tokens),
        "tokenizer.ggml.eos_token_id": len(tokens) + 1,
        **named,
    }


def pieces(tokenizer, text="I'LL GO"):
    return [tokenizer._tokenizer.id_to_token(i) for i in tokenizer.encode(text, bos=False)]


@pytest.mark.parametrize("pre", [None, "default"])
def test_a_file_without_a_pre_tokenizer_is_read_by_its_tokens_and_a_warning(pre):
    with pytest.warns(UserWarning, match="tokenizer.ggml.pre.*'llama-bpe'"):
        llama3 = from_gguf(llama3_metadata(pre=pre))
    assert (
        pieces(llama3) == CAPITALS["llama-bpe"] == pieces(from_gguf(llama3_metadata(pre="llama3")))
    )
    with pytest.warns(UserWarning, match="'gpt-2'"):
        unknown = from_gguf(llama3_metadata(special=["<s>", "</s>"], pre=pre))
    assert pieces(unknown) == CAPITALS["gpt-2"]
    with pytest.warns(UserWarning, match="'qwen2'"):
        from_gguf({**qwen2_metadata(pre), "general.architecture": "qwen3"})
    gpt2 = {**llama3_metadata(special=["<s>", "</s>"], pre=pre), "general.architecture": "gpt2"}
    assert pieces(from_gguf(gpt2)) == CAPITALS["gpt-2"]  # its own, so no warning


@pytest.mark.parametrize("pre", ["llama-bpe", "llama3", "llama-v3"])
def test_llama_3_begins_texts_with_a_token_unless_the_file_says_otherwise(pre):
    begin = 260
    assert from_gguf(llama3_metadata(pre=pre)).encode("GO")[0] == begin
    without = from_gguf(llama3_metadata(pre=pre, add_bos_token=False))
    assert without.encode("GO") == from_gguf(llama3_metadata(pre=pre)).encode("GO")[1:]
    assert from_gguf(llama3_metadata(pre="gpt-2")).encode("GO")[0] != begin


def test_every_token_that_ends_a_text_is_known(tmp_path):
    gguf = from_gguf(llama3_metadata(pre="llama3", eot_token_id=262, eom_token_id=261))
    assert gguf.eos_ids == (261, 262) and gguf.eos_id == 261
    (tmp_path / "tokenizer.json").write_text(from_gguf(SENTENCE_PIECE).to_json())

    def ends(**files):
        for name in ("config", "generation_config", "tokenizer_config"):
            (tmp_path / f"{name}.json").write_text(json.dumps(files.get(name, {})))
        return from_json(tmp_path / "tokenizer.json").eos_ids

    assert ends(config={"eos_token_id": [1, 2]}) == (1, 2)
    assert ends(config={"eos_token_id": 1}, generation_config={"eos_token_id": [2, 12]}) == (2, 12)
    # The tokenizer's own comes first; one that it lacks is none. 10**30 is in published files.
    own = {"eos_token": {"content": "<start_of_turn>"}, "model_max_length": 10**30}
    assert ends(tokenizer_config=own, config={"eos_token_id": [1, 2]}) == (12, 1, 2)
    assert ends(tokenizer_config={"eos_token": "<|x|>"}, config={"eos_token_id": 2}) == (2,)
    assert ends() == ()
    for wrong in ("2", 2.0, True, [[2]], -1, 13, 10**12):
        with pytest.raises(WeightFileError, match="token"):
            ends(config={"eos_token_id": wrong})


def bpe(prefix=None, second="b", **settings):
    """A tokenizer.json of three tokens."""
    model = {
        "type": "BPE",
        "continuing_subword_prefix": prefix,
        "vocab": {"a": 0, second: 1, f"a{second}": 2},
        "merges": [["a", second]],
    }
    return {"version": "1.0", "added_tokens": [], "model": model, **settings}


HOSTILE = {
    "a prefix": bpe("#" * 20),
    "a prefix and two bytes": bpe("#", "é"),
    "no model": {"version": "1.0"},
    "charsmap": bpe(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"}),
    "chunks": bpe(pre_tokenizer={"type": "FixedLength", "length": 0}),
    "deep": bpe(normalizer=json.loads("[" * 200 + "]" * 200)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_tokenizer_is_one_clear_error(name, tmp_path):
    """Some make the library panic, which is no Exception; the second would end the process."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(HOSTILE[name]), encoding="utf-8")
    with pytest.raises(WeightFileError, match="tokenizer"):
        from_json(path)


def test_a_key_that_is_there_twice_does_not_hide_what_the_library_reads(tmp_path):
    text = json.dumps(bpe("#", "é"), ensure_ascii=False)
    second = json.dumps(bpe()["model"])
    (tmp_path / "tokenizer.json").write_text(f'{text[:-1]}, "model": {second}}}', encoding="utf-8")
    assert from_json(tmp_path / "tokenizer.json").encode("ab") == [2]


def test_absurd_padding_is_left_out(tmp_path):
    """The library would allocate it and end the process."""
    padding = {
        "strategy": {"Fixed": 10**15},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "a",
    }
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(bpe(padding=padding)))
    (tmp_path / "config.json").write_text('{"bos_token_id": 1}')
    assert from_json(path).encode("ab") == [2]


def test_rules_that_fail_on_a_text_are_one_clear_error(tmp_path):
    """Here a regular expression that backtracks for ever."""
    slow = {"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}
    (tmp_path / "tokenizer.json").write_text(json.dumps(bpe(normalizer=slow)))
    tokenizer = from_json(tmp_path / "tokenizer.json")
    with pytest.raises(WeightFileError, match="cannot encode"):
        tokenizer.encode("a" * 40 + "b")


def test_pieces_that_can_be_split_in_many_ways_take_little_memory():
    """The pieces a, aa, aaa ... have as many merges as the square of their number."""
    tokens = ["a" * n for n in range(1, 501)]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * len(tokens),
    }
    tracemalloc.start()
    with pytest.raises(WeightFileError, match="split"):
        from_gguf(metadata)
    assert tracemalloc.get_traced_memory()[1] < 2**25
    tracemalloc.stop()
    some = {name: value[:60] for name, value in metadata.items() if isinstance(value, list)}
    few = from_gguf({**metadata, **some})
    assert few.encode("a" * 7, bos=False)[-1] <= 6
