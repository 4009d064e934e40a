"""The packaged SmolLM2, against logits that transformers computed from the original weights."""

import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ico import lm
from ico.lm import WeightFileError, _score

RECORDS = json.loads(
    (Path(__file__).parents[1] / "data" / "smollm2_reference_logits.json").read_text()
)["records"]


@pytest.fixture(scope="module")
def smollm2():
    try:
        return lm.load("smollm2")
    except WeightFileError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record["text"][:12])
def test_tokens_and_logits_are_the_reference(smollm2, record):
    ids = smollm2.tokenizer.encode(record["text"])
    assert ids == record["ids"]
    assert smollm2.tokenizer.decode(ids) == record["text"]
    # All padded to one length, which changes nothing: padding comes after the text.
    padded = np.zeros((1, 32), np.int32)
    padded[0, : len(ids)] = ids
    scores = np.asarray(smollm2.logits(padded))[0, : len(ids)]
    np.testing.assert_allclose(
        scores[-1, record["top_ids"]], record["top_logits"], atol=2e-3, rtol=0
    )
    wide = scores.astype(np.float64)
    log_probs = wide - np.logaddexp.reduce(wide, axis=-1, keepdims=True)
    np.testing.assert_allclose(
        log_probs[np.arange(len(ids) - 1), ids[1:]], record["token_logprobs"], atol=2e-3, rtol=0
    )


@pytest.mark.slow
def test_scores_are_sums_and_padding_does_not_matter(smollm2):
    record = RECORDS[0]
    text = record["text"]
    words = [smollm2.tokenizer.decode(record["ids"][:n]) for n in (1, len(record["ids"]))]
    whole = smollm2.log_prob([words[0]] * 3, [words[1].removeprefix(words[0])] * 3)
    np.testing.assert_allclose(whole, sum(record["token_logprobs"]), atol=5e-3)
    long = smollm2.log_prob([text, text * 9], [" Paris", " Paris"])
    np.testing.assert_allclose(long[0], smollm2.log_prob(text, " Paris")[0], atol=1e-4)
    assert smollm2.perplexity(text) == pytest.approx(
        np.exp(-np.mean(record["token_logprobs"])), rel=1e-3
    )


def test_scoring_compiles_once_for_a_bucket_of_lengths(smollm2, monkeypatch):
    chex.clear_trace_counter()
    counted = chex.assert_max_traces(_score._score_rows.__wrapped__, n=1)
    monkeypatch.setattr(_score, "_score_rows", jax.jit(counted, static_argnums=(1, 5)))
    prompts = ["The capital of France is", "Water is", "A b c d e f"]
    first = smollm2.log_prob(prompts, [" Paris"] * 3)
    other = smollm2.log_prob([p + " so" for p in prompts], [" wet", " dry", " a b"])
    assert (first != other).all()


def test_any_text_is_decoded_as_it_was(smollm2):
    """Byte-level BPE takes any text: emoji, unassigned characters, runs of spaces.

    This vocabulary lacks some bytes: control characters, and the first bytes from U+40000 on.
    """
    plain = st.characters(max_codepoint=0x3FFFF, exclude_categories=["Cs", "Cc"])

    @given(st.text(plain | st.sampled_from("\n\t"), max_size=40))
    @settings(max_examples=100)
    def check(text):
        assert smollm2.tokenizer.decode(smollm2.tokenizer.encode(text)) == text

    check()


def test_special_tokens_and_digits(smollm2):
    encode = smollm2.tokenizer.encode
    assert encode("<|im_start|>user<|im_end|>")[::2] == [1, 2]
    assert len(encode("12345")) == 5
    assert smollm2.tokenizer.eos_id == 2
    with pytest.raises(ValueError, match="nothing to score"):
        smollm2.log_prob([""], [" a"])


@pytest.mark.slow
def test_greedy_continuation(smollm2):
    """Each token is the most probable one, whatever the other prompts of the batch."""
    prompts = [RECORDS[0]["text"], "In 1969, Neil Armstrong walked on the moon, and then he"]
    both = smollm2.generate(prompts, max_tokens=4)
    alone = smollm2.generate(prompts[0], max_tokens=4)
    assert both[0] == alone[0] and both[0].startswith(" Paris")
    assert smollm2.top(prompts[0])[0][0] == " Paris"
    ids = smollm2.tokenizer.encode(prompts[1])
    for token in smollm2.tokenizer.encode(both[1]):
        padded = np.zeros((1, 32), np.int32)
        padded[0, : len(ids)] = ids
        assert int(np.argmax(smollm2.logits(padded)[0, len(ids) - 1])) == token
        ids.append(token)
