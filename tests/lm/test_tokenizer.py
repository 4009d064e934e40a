"""Tokenizers built from a GGUF file's metadata."""

import pytest

from ico.lm import WeightFileError
from ico.lm._tokenizer import from_gguf, from_json

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
