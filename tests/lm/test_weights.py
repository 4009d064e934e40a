"""Weights written and read back, and files that are damaged or hostile."""

import dataclasses
import json
import struct

import chex
import numpy as np
import pytest

from ico import lm
from ico.lm import WeightFileError
from ico.lm._config_files import from_hf, to_hf
from ico.lm._rope import rope_frequencies
from tests.lm.conftest import CONFIGS, random_model

gguf = pytest.importorskip("gguf")
# Parameter of a layer -> name in GGUF, written out here once more as llama.cpp has them.
GGUF_NAMES = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "output": "attn_output",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
    "query_norm": "attn_q_norm",
    "key_norm": "attn_k_norm",
    "attention_post_norm": "post_attention_norm",
    "mlp_post_norm": "post_ffw_norm",
}
LLAMA3_SCALING = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6]], np.int32)


def with_hf_rope(family):
    """A random model, and its configuration as config.json gives it."""
    config = dataclasses.replace(CONFIGS[family], score_cap=0.0)
    return random_model(family), from_hf(to_hf(config))


def write_gguf(path, model, *, kind=None, metadata=(), lists=None, drop=(), extra=()):
    """A GGUF file as llama.cpp's converter lays it out; matrices quantised to `kind` if given."""
    c = model.config
    arch = c.family
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_context_length(c.context_length)
    writer.add_embedding_length(c.dim)
    writer.add_block_count(c.num_layers)
    writer.add_feed_forward_length(c.mlp_dim)
    writer.add_head_count(c.num_heads)
    writer.add_head_count_kv(c.num_kv_heads)
    writer.add_key_length(c.head_dim)
    if arch == "gpt2":
        writer.add_layer_norm_eps(c.norm_eps)
    else:
        writer.add_layer_norm_rms_eps(c.norm_eps)
        writer.add_rope_freq_base(1e4)
    if arch == "gemma3":
        writer.add_sliding_window(c.window)
    for name, value in metadata:
        writer.add_uint32(name, value)
    for name, value in (lists or {}).items():
        kinds = {list: writer.add_array, str: writer.add_string, int: writer.add_uint32}
        value = [float(one) for one in value] if name.endswith("scores") else value
        kinds[type(value)](name, value)
    tensors = {"token_embd.weight": model.params["embedding"]}
    tensors |= {
        f"output_norm.{'weight' if part == 'scale' else part}": value
        for part, value in model.params["final_norm"].items()
    }
    if "head" in model.params:
        tensors["output.weight"] = model.params["head"]
    if "positions" in model.params:
        tensors["position_embd.weight"] = model.params["positions"]
    for layer in range(c.num_layers):
        joined = {"kernel": [], "bias": []}
        for name in GGUF_NAMES:
            for part, stacked in model.params["layers"].get(name, {}).items():
                value = np.asarray(stacked)[layer]
                if part == "kernel":
                    if name == "output":
                        value = value.reshape(-1, c.dim)
                    value = value.reshape(value.shape[0], -1).T
                value = value.reshape(-1) if part == "bias" else value
                if arch == "llama" and name in ("query", "key"):
                    heads = c.num_heads if name == "query" else c.num_kv_heads
                    value = value.reshape(heads, 2, c.head_dim // 2, *value.shape[1:])
                    value = value.swapaxes(1, 2).reshape(-1, *value.shape[3:])
                if arch == "gpt2" and name in ("query", "key", "value"):
                    joined[part].append(value)
                    continue
                suffix = "bias" if part == "bias" else "weight"
                tensors[f"blk.{layer}.{GGUF_NAMES[name]}.{suffix}"] = value
        if arch == "gpt2":
            tensors[f"blk.{layer}.attn_qkv.weight"] = np.concatenate(joined["kernel"])
            tensors[f"blk.{layer}.attn_qkv.bias"] = np.concatenate(joined["bias"])
    for name, value in (*tensors.items(), *extra):
        value = np.ascontiguousarray(value, np.float32)
        if name in drop:
            continue
        if kind is not None and value.ndim == 2:
            writer.add_tensor(name, gguf.quants.quantize(value, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def gguf_model(family, **changes):
    """A random model that GGUF's metadata can describe in full."""
    if family == "gpt2":
        return random_model(family, **changes)
    changes["frequencies"] = angles = rope_frequencies(8, 1e4, {})[0]
    if family == "gemma3":
        changes |= {"local_frequencies": angles, "local_layers": (True,) * 4}
        changes |= {"score_cap": 0.0, "logit_cap": 0.0}
    return random_model(family, **changes)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_gguf_of_every_family(family, tmp_path):
    model = gguf_model(family)
    again = lm.load(write_gguf(tmp_path / "model.gguf", model))
    chex.assert_trees_all_close(again.params, model.params, atol=1e-6)
    chex.assert_trees_all_close(again.logits(IDS), model.logits(IDS), atol=1e-5)
    saved = lm.load(again.save(tmp_path / "saved"))  # and from there to safetensors
    chex.assert_trees_all_close(saved.logits(IDS), model.logits(IDS), atol=1e-5)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_gguf(kind, tmp_path):
    """Parameters are what the gguf package dequantises, in the right places."""
    kind = gguf.GGMLQuantizationType[kind]
    model = gguf_model("llama", dim=32, mlp_dim=32)

    def rounded(value):
        value = np.ascontiguousarray(value, np.float32)
        return gguf.quants.dequantize(gguf.quants.quantize(value, kind), kind)

    again = lm.load(write_gguf(tmp_path / "model.gguf", model, kind=kind))
    np.testing.assert_array_equal(
        again.params["embedding"], rounded(model.params["embedding"]).reshape(37, 32)
    )
    up = np.asarray(model.params["layers"]["up"]["kernel"])[1]
    np.testing.assert_array_equal(again.params["layers"]["up"]["kernel"][1], rounded(up.T).T)


def test_llama3_factors_of_a_gguf(tmp_path):
    plain, scaled = (
        np.asarray(rope_frequencies(8, 1e4, scaling)[0]) for scaling in ({}, LLAMA3_SCALING)
    )
    factors = ("rope_freqs.weight", plain / scaled)
    loaded = lm.load(write_gguf(tmp_path / "model.gguf", gguf_model("llama"), extra=[factors]))
    np.testing.assert_allclose(loaded.config.frequencies, scaled, rtol=1e-6)
    saved = lm.load(loaded.save(tmp_path / "saved"))
    np.testing.assert_allclose(saved.config.frequencies, scaled, rtol=1e-6)


def test_other_factors_of_a_gguf_are_used_and_not_saved(tmp_path):
    """A config.json cannot describe factors that no published method gives."""
    factors = ("rope_freqs.weight", np.array([1.0, 1.5, 2.0, 5.0]))
    loaded = lm.load(write_gguf(tmp_path / "model.gguf", gguf_model("llama"), extra=[factors]))
    wanted = np.asarray(rope_frequencies(8, 1e4, {})[0]) / factors[1]
    np.testing.assert_allclose(loaded.config.frequencies, wanted, rtol=1e-6)
    with pytest.raises(ValueError, match="rotary factors"):
        loaded.save(tmp_path / "saved")
    assert not (tmp_path / "saved" / "config.json").exists()


def test_damaged_gguf_is_one_clear_error(tmp_path):
    """Cut anywhere, or any byte of the header changed: it loads, or says what is wrong."""
    whole = write_gguf(tmp_path / "whole.gguf", gguf_model("gpt2")).read_bytes()
    path = tmp_path / "damaged.gguf"
    header = whole.index(b"blk.3.ffn_down.bias") + 64
    rng = np.random.default_rng(0)
    cuts = [0, 3, 4, 8, 20, header // 2, header, len(whole) - 1]
    for cut in cuts:
        path.write_bytes(whole[:cut])
        with pytest.raises(WeightFileError):
            lm.load(path)
    refused = 0
    for place in rng.integers(0, header, 150):
        damaged = bytearray(whole)
        damaged[place] = rng.integers(0, 256)
        path.write_bytes(damaged)
        try:
            lm.load(path)
        except WeightFileError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    "change", ["count", "string", "array", "shape", "offset"], ids=lambda name: name
)
def test_hostile_gguf_allocates_nothing(change, tmp_path):
    """Headers that ask for exabytes are refused before anything is allocated."""
    huge = 2**60

    def text(value):
        return struct.pack("<Q", len(value)) + value

    keys, tensors = b"", b""
    counts = [1, 1]
    if change == "count":
        counts = [huge, huge]
    keys = text(b"general.architecture") + struct.pack("<I", 8) + text(b"llama")
    if change == "string":
        keys = struct.pack("<Q", huge) + b"general"
    if change == "array":
        keys = text(b"a") + struct.pack("<IIQ", 9, 4, huge)
    shape = (huge, huge) if change == "shape" else (32, 2)
    offset = huge if change == "offset" else 0
    tensors = text(b"token_embd.weight") + struct.pack("<IQQIQ", 2, *shape, 0, offset)
    path = tmp_path / "hostile.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, *counts) + keys + tensors + bytes(512))
    with pytest.raises(WeightFileError):
        lm.load(path)


def test_tensors_that_share_bytes_are_refused(tmp_path):
    """Otherwise a small file could become a large model."""
    whole = bytearray(write_gguf(tmp_path / "model.gguf", gguf_model("gpt2")).read_bytes())
    name = b"blk.1.ffn_down.bias"
    entry = whole.index(name) + len(name) + 4 + 8 + 4  # one dimension, then the type
    whole[entry : entry + 8] = struct.pack("<Q", 0)
    (tmp_path / "model.gguf").write_bytes(whole)
    with pytest.raises(WeightFileError, match="overlap"):
        lm.load(tmp_path / "model.gguf")


@pytest.mark.parametrize(
    "change",
    [
        {"layer_types": ["full_attention"]},
        {"layer_types": ["chunked_attention"] * 4},
        {"sliding_window": "16"},
        {"sliding_window": -5},
    ],
)
def test_windows_of_gemma_that_make_no_sense_are_refused(change, tmp_path):
    model, config = with_hf_rope("gemma3")
    model.config = config
    model.save(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(WeightFileError):
        lm.load(tmp_path)


def test_tensors_must_be_all_and_only_the_models(tmp_path):
    model = gguf_model("llama")
    for change, word in (
        ({"drop": ["blk.2.attn_k.weight"]}, "lacks"),
        ({"extra": [("blk.9.attn_k.weight", np.zeros((4, 4)))]}, "not known"),
        ({"metadata": [("llama.expert_count", 4)]}, "experts"),
    ):
        with pytest.raises(WeightFileError, match=word):
            lm.load(write_gguf(tmp_path / "model.gguf", model, **change))


def test_damaged_safetensors_is_one_clear_error(tmp_path):
    model, config = with_hf_rope("llama")
    model.config = config
    model.save(tmp_path)
    path = tmp_path / "model.safetensors"
    whole = path.read_bytes()
    for damaged in (
        b"",
        whole[:4],
        whole[:200],
        whole[:-1],
        struct.pack("<Q", 2**60) + whole[8:],
        whole[:8] + b"x" + whole[9:],
    ):
        path.write_bytes(damaged)
        with pytest.raises(WeightFileError):
            lm.load(tmp_path)
    path.write_bytes(whole)
    described = json.loads((tmp_path / "config.json").read_text())
    for change in (
        {"num_hidden_layers": 10**9},
        {"hidden_size": 10**9},
        {"model_type": "mamba"},
        {"hidden_act": "relu"},
        {"num_attention_heads": 0},
        {"rope_scaling": {"rope_type": "longrope", "factor": 2}},
        {"vocab_size": "many"},
        {"head_dim": 10**13},
        {"rms_norm_eps": 10**400},
    ):
        (tmp_path / "config.json").write_text(json.dumps({**described, **change}))
        with pytest.raises(WeightFileError):
            lm.load(tmp_path)
    (tmp_path / "config.json").write_text("[" * 100_000)
    with pytest.raises(WeightFileError):
        lm.load(tmp_path)


def test_shards_are_read_and_may_not_leave_their_folder(tmp_path):
    from safetensors.numpy import load_file, save_file

    model, config = with_hf_rope("gpt2")
    model.config = config
    model.save(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(names)}
    for part in set(index.values()):
        save_file({name: tensors[name] for name in names if index[name] == part}, tmp_path / part)
    path = tmp_path / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    sharded = lm.load(tmp_path)
    chex.assert_trees_all_close(sharded.logits(IDS), model.logits(IDS), atol=1e-5)
    path.write_text(json.dumps({"weight_map": {**index, names[0]: "../part-0.safetensors"}}))
    with pytest.raises(WeightFileError, match="outside"):
        lm.load(tmp_path)
    # Saved into the folder that it came from, the edited model is read, not the old shards.
    sharded.params["embedding"] = sharded.params["embedding"] + 1
    sharded.save(tmp_path)
    np.testing.assert_allclose(lm.load(tmp_path).params["embedding"], sharded.params["embedding"])


def test_pickles_and_nothing_are_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04")
    for path in (tmp_path, tmp_path / "pytorch_model.bin", tmp_path / "missing.gguf"):
        with pytest.raises(WeightFileError):
            lm.load(path)
