"""What is saved is what is loaded, here and in transformers, or it is not saved."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from ico import lm
from ico.lm import WeightFileError
from ico.lm._config_files import from_hf, to_hf
from ico.lm._rope import rope_base, rope_frequencies
from ico.lm._tokenizer_gguf import from_gguf
from tests.lm.conftest import CONFIGS, random_model
from tests.lm.test_tokenizer import SENTENCE_PIECE, qwen2_metadata

IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]], np.int32)
TYPES = json.loads(
    (Path(__file__).parents[1] / "data" / "transformers_config_types.json").read_text()
)["types"]
# Ends of a turn and of a document, and a token to begin with, for `qwen2_metadata`.
BYTE_LEVEL_ENDS = {
    "tokenizer.ggml.eot_token_id": 260,
    "tokenizer.ggml.bos_token_id": 267,
    "tokenizer.ggml.add_bos_token": False,
}


def tokenizer(**changes):
    """A SentencePiece tokenizer of 13 tokens, with two tokens that end a text."""
    ends = {"tokenizer.ggml.eot_token_id": 12}
    return from_gguf({**SENTENCE_PIECE, **ends, **changes})


def saveable(family, **changes):
    """A random model that its family's config.json can describe."""
    return random_model(family, **{"score_cap": 0.0, **changes})


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_saved_and_loaded_is_the_same(family, tmp_path):
    model = saveable(family)
    model.tokenizer = tokenizer()
    again = lm.load(model.save(tmp_path))
    same = {"rope": again.config.rope, "query_scale": again.config.query_scale}
    assert again.config == dataclasses.replace(model.config, **same)
    chex.assert_trees_all_equal_shapes_and_dtypes(again.params, model.params)
    chex.assert_trees_all_close(again.params, model.params, atol=1e-6)
    chex.assert_trees_all_close(again.logits(IDS), model.logits(IDS), atol=1e-5)
    assert again.tokenizer is not None and model.tokenizer.difference(again.tokenizer) == ""
    assert again.tokenizer.encode("ab a") == model.tokenizer.encode("ab a")


@pytest.mark.parametrize("family", sorted(set(CONFIGS) - {"gpt2"}))
def test_a_rotary_base_is_saved_though_only_the_frequencies_say_it(family, tmp_path):
    """The decoder computes with `frequencies` alone, so nothing else need be given."""
    angles = rope_frequencies(8, 5e5, {})[0]
    local = {"local_frequencies": angles} if family == "gemma3" else {}
    model = saveable(family, frequencies=angles, rope=(), **local)
    again = lm.load(model.save(tmp_path))
    chex.assert_trees_all_close(again.config.frequencies, angles, rtol=1e-7)
    chex.assert_trees_all_close(again.logits(IDS), model.logits(IDS), atol=1e-5)
    # A base that contradicts the frequencies is not written in their place.
    model.config = dataclasses.replace(model.config, rope=(("rope_theta", 1e4),))
    with pytest.raises(ValueError, match="cannot describe frequencies"):
        model.save(tmp_path)


@given(st.floats(1.5, 1e9), st.integers(2, 64))
@settings(max_examples=100, deadline=None)
def test_the_rotary_base_is_found_in_the_frequencies(base, pairs):
    angles = rope_frequencies(2 * pairs, base, {})[0]
    np.testing.assert_allclose(rope_base(angles), base, rtol=2e-6)
    again = rope_frequencies(2 * pairs, rope_base(angles), {})[0]
    np.testing.assert_allclose(again, angles, rtol=1e-6)


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_parameters_of_every_floating_type_come_back(kind, tmp_path):
    model = saveable("qwen3")
    dtype = np.dtype(getattr(ml_dtypes, kind, None) or kind)
    model.params = jax.tree.map(lambda leaf: np.asarray(leaf).astype(dtype), model.params)
    if kind == "float64":  # more digits than float32 has
        model.params = jax.tree.map(lambda leaf: leaf + 1e-12, model.params)
        with jax.enable_x64(True):
            again = jax.device_get(lm.load(model.save(tmp_path), dtype=np.float64).params)
    else:
        again = lm.load(model.save(tmp_path), dtype=dtype).params
    chex.assert_trees_all_equal_shapes_and_dtypes(again, model.params)
    for leaf, found in zip(jax.tree.leaves(model.params), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(np.asarray(found, np.float64), leaf.astype(np.float64))


def test_norms_of_gemma_come_back_in_half_precision(tmp_path):
    """Its files hold a norm's scale less one, which rounds."""
    model = saveable("gemma3")
    model.params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), model.params)
    again = lm.load(model.save(tmp_path), dtype=jnp.bfloat16)
    chex.assert_trees_all_close(again.params, model.params, rtol=2**-7, atol=2**-8)


def test_codes_of_a_quantised_model_are_no_weights(tmp_path):
    saveable("llama").save(tmp_path)
    path = tmp_path / "model.safetensors"
    tensors = load_file(path)
    tensors["model.norm.weight"] = np.ones(24, np.int8)
    save_file(tensors, path)
    with pytest.raises(WeightFileError, match="model.norm.weight.* is of type I8"):
        lm.load(tmp_path)


def test_what_the_files_cannot_hold_is_not_saved_and_changes_nothing(tmp_path):
    model = saveable("llama")
    model.tokenizer = tokenizer()
    model.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def refused(words, **changes):
        changed = dataclasses.replace(model, **changes)
        with pytest.raises(ValueError, match=words):
            changed.save(tmp_path)
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before

    layers = model.params["layers"]
    longer = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), layers)
    refused("layers/.* must be", params={**model.params, "layers": longer})
    refused("bias must be absent", params={**model.params, "bias": jnp.ones(3)})
    refused("head must be", params={k: v for k, v in model.params.items() if k != "head"})
    refused("holds a tokenizer.json", tokenizer=None)
    adding = tokenizer(**{"tokenizer.ggml.add_bos_token": False})
    adding.adds_bos = True  # which its tokenizer.json does not say
    refused("adds_bos True", tokenizer=adding)


def as_json_type(value):
    return type(value).__name__


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_config_json_has_the_types_that_transformers_demands(family, tmp_path):
    """It refuses any other since version 5; see tests/data/make_transformers_config_types.py."""
    model = saveable(family, norm_eps=1.0)
    model.tokenizer = tokenizer()
    described = json.loads((model.save(tmp_path) / "config.json").read_text())
    types = TYPES[described["model_type"]]
    assert len(set(described) & set(types)) >= 10
    for name, value in described.items():
        assert name not in types or as_json_type(value) in types[name], (name, value)


@pytest.mark.parametrize("scale", [64**-0.5, 168**-0.5, 256.0**-0.5, 0.1])
def test_the_scale_of_gemma_is_a_whole_number(scale, tmp_path):
    config = dataclasses.replace(CONFIGS["gemma3"], score_cap=0.0, query_scale=scale)
    scalar = to_hf(config)["query_pre_attn_scalar"]
    assert isinstance(scalar, int)
    np.testing.assert_allclose(from_hf(to_hf(config)).query_scale, scale, rtol=1e-12)
    with pytest.raises(ValueError, match="query_scale"):
        to_hf(dataclasses.replace(config, query_scale=5.5**-0.5))


def test_special_tokens_are_written_where_transformers_looks_for_them(tmp_path):
    model = saveable("llama")
    model.tokenizer = tokenizer()
    model.save(tmp_path)
    config, generation, settings = (
        json.loads((tmp_path / f"{name}.json").read_text())
        for name in ("config", "generation_config", "tokenizer_config")
    )
    for described in (config, generation):
        assert described["bos_token_id"] == 1 and described["eos_token_id"] == [2, 12]
    assert settings["bos_token"] == "<s>" and settings["eos_token"] == "</s>"


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_a_round_trip_through_transformers(family, tmp_path):
    """Where transformers is installed; the tests above and test_families.py need it not."""
    transformers = pytest.importorskip("transformers")
    torch = pytest.importorskip("torch")
    # transformers builds Qwen 2's tokenizer itself, whatever tokenizer.json says, so give that one.
    sentence_piece = family in ("gemma3", "llama")
    ours = tokenizer() if sentence_piece else from_gguf(qwen2_metadata("qwen2") | BYTE_LEVEL_ENDS)
    model = saveable(family, vocab_size=ours.vocab_size + 1)  # it may add a token
    model.tokenizer = ours
    model.save(tmp_path / "ours")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "ours", attn_implementation="eager"
    )
    with torch.no_grad():
        wanted = theirs(torch.tensor(IDS)).logits.numpy()
    np.testing.assert_allclose(model.logits(IDS), wanted, atol=1e-4)
    assert theirs.generation_config.eos_token_id == list(ours.eos_ids)
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert tokens.bos_token_id == ours.bos_id is not None
    assert tokens.eos_token_id == ours.eos_id is not None
    for text in ("ab ba\n", "é a", "<start_of_turn>a", "ab<|im_end|> 123"):
        assert tokens(text)["input_ids"] == ours.encode(text)
    theirs.save_pretrained(tmp_path / "theirs")
    tokens.save_pretrained(tmp_path / "theirs")
    again = lm.load(tmp_path / "theirs")
    chex.assert_trees_all_close(again.params, model.params, atol=1e-6)
    chex.assert_trees_all_close(again.logits(IDS), model.logits(IDS), atol=1e-5)
    assert again.tokenizer is not None and again.tokenizer.eos_ids == ours.eos_ids
    assert again.tokenizer.encode("ab a") == ours.encode("ab a")
