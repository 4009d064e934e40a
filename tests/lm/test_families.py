"""Every family against logits that transformers computed, from safetensors and from GGUF."""

import dataclasses
import json
from pathlib import Path

import chex
import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from ico import lm
from ico.lm import WeightFileError, families
from ico.lm._config_files import from_gguf, from_hf, to_hf
from ico.lm._rope import rope_frequencies
from tests.data.make_tiny_reference_logits import weights
from tests.lm.conftest import CONFIGS, random_model

gguf = pytest.importorskip("gguf")
REFERENCE = json.loads(
    (Path(__file__).parents[1] / "data" / "tiny_reference_logits.json").read_text()
)
IDS = np.array(REFERENCE["ids"], np.int32)
RECORDS = {record["name"]: record for record in REFERENCE["records"]}


def as_safetensors(folder, record):
    """The files that transformers would write."""
    (folder / "config.json").write_text(json.dumps(record["config"]))
    save_file(weights(record["shapes"]), folder / "model.safetensors")
    return folder


def as_gguf(path, record):
    """A GGUF file with the names of the gguf package and the layouts of llama.cpp's converter."""
    config, kind = record["config"], record["config"]["model_type"].removesuffix("_text")
    sizes = {key.removeprefix("n_"): value for key, value in config.items()}
    layers = sizes.get("num_hidden_layers", sizes.get("layer"))
    heads = sizes.get("num_attention_heads", sizes.get("head"))
    dim = sizes.get("hidden_size", sizes.get("embd"))
    head_dim = config.get("head_dim", dim // heads)
    writer = gguf.GGUFWriter(str(path), kind)
    writer.add_context_length(sizes.get("max_position_embeddings", sizes.get("positions")))
    writer.add_embedding_length(dim)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(config.get("intermediate_size", 4 * dim))
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    writer.add_key_length(head_dim)
    if kind == "gpt2":
        writer.add_layer_norm_eps(1e-5)
    else:
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_rope_freq_base(config["rope_theta"])
    if "rope_scaling" in config:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config["rope_scaling"]["factor"])
        writer.add_rope_scaling_orig_ctx_len(
            config["rope_scaling"]["original_max_position_embeddings"]
        )
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(arch, layers)
    for name, value in weights(record["shapes"]).items():
        if kind == "llama" and ("q_proj" in name or "k_proj" in name):
            halves = value.reshape(-1, 2, head_dim // 2, *value.shape[1:])
            value = halves.swapaxes(1, 2).reshape(value.shape)
        if kind == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
            value = value.T
        new = names.get_name(name, try_suffixes=(".weight", ".bias"))
        writer.add_tensor(new, np.ascontiguousarray(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("name", RECORDS)
def test_safetensors_give_the_logits_of_transformers(name, tmp_path):
    model = lm.load(as_safetensors(tmp_path, RECORDS[name]))
    np.testing.assert_allclose(model.logits(IDS), RECORDS[name]["logits"], atol=3e-5)


# GGUF cannot describe the small windows and scales of the Gemma 3 here, nor YaRN's mscale.
@pytest.mark.parametrize("name", sorted(set(RECORDS) - {"gemma3", "llama-yarn-mscale"}))
def test_gguf_gives_the_logits_of_transformers(name, tmp_path):
    model = lm.load(as_gguf(tmp_path / "model.gguf", RECORDS[name]))
    assert model.config.family == RECORDS[name]["config"]["model_type"]
    np.testing.assert_allclose(model.logits(IDS), RECORDS[name]["logits"], atol=3e-5)


def test_the_reference_shows_what_is_left_out(tmp_path):
    """Without qk-norm, biases or context extension the logits miss it by far."""

    def error(name, config_changes=None, params_change=lambda params: params):
        model = lm.load(as_safetensors(tmp_path, RECORDS[name]))
        model.config = dataclasses.replace(model.config, **config_changes or {})
        model.params = params_change(model.params)
        return np.abs(model.logits(IDS) - np.array(RECORDS[name]["logits"])).max()

    def without_biases(params):
        return jax.tree.map_with_path(lambda p, a: 0 * a if p[-1].key == "bias" else a, params)

    plain = from_hf(RECORDS["qwen2"]["config"]).frequencies
    assert error("qwen3", {"qk_norm": False}) > 0.01
    assert error("qwen2", params_change=without_biases) > 0.01
    assert error("qwen2-yarn", {"frequencies": plain}) > 0.003
    assert error("qwen2-yarn", {"rope_scale": 1.0}) > 0.003
    assert error("llama-yarn-mscale", {"rope_scale": 0.1 * np.log(4) + 1}) > 0.003


def test_every_family_is_tested():
    assert set(CONFIGS) == set(families.FAMILIES)
    types = [record["config"]["model_type"] for record in RECORDS.values()]
    assert {families.family_of_model_type(kind).name for kind in types} == set(families.FAMILIES)


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_a_family_names_every_parameter_once(family):
    """Two parameters share a tensor only if the file joins them; then they are neighbours."""
    shapes = lm.param_shapes(CONFIGS[family])
    described = families.FAMILIES[family]
    assert set(shapes["layers"]) == set(described.layer_names)
    assert set(shapes) - {"layers"} <= set(described.top_names)
    for which in (0, 1):
        names = [pair[which] for pair in described.layer_names.values()]
        runs = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
        assert len(runs) == len(set(runs))


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_what_config_json_cannot_describe_is_not_saved(family, tmp_path):
    """Else the model would be loaded again as another one."""
    config = dataclasses.replace(CONFIGS[family], score_cap=0.0)
    assert from_hf(to_hf(from_hf(to_hf(config)))) == from_hf(to_hf(config))
    for change in (
        {"qk_norm": not config.qk_norm},
        {"norm": "rms" if config.norm == "layer" else "layer"},
        {"embed_scale": 7.0},
        {"output_bias": not config.output_bias},
        {"query_scale": 0.3},
        {"frequencies": () if config.frequencies else (1.0, 0.5, 0.4, 0.3)},
        {"rope_scale": 1.5},
        {"score_cap": 4.0},
    ):
        with pytest.raises(ValueError, match=f"{family}.* cannot describe {next(iter(change))}"):
            to_hf(dataclasses.replace(config, **change))


def test_an_unknown_family_is_told_the_known_ones():
    for read in (
        lambda: from_hf({"model_type": "mamba"}),
        lambda: from_gguf({"general.architecture": "mamba"}, {}),
        lambda: families.family_of(dataclasses.replace(CONFIGS["llama"], family="mamba")),
    ):
        with pytest.raises(WeightFileError, match="mamba.*gemma3.*gpt2.*llama.*qwen2.*qwen3"):
            read()
    for nothing in ({}, {"model_type": None}, {"model_type": ["llama"]}):
        with pytest.raises(WeightFileError, match="model_type"):
            from_hf(nothing)


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_sliding_windows_of_qwen_are_refused_if_used(family):
    described = to_hf(CONFIGS[family])
    for used in (
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 2},
        {"layer_types": ["full_attention", "sliding_attention"] * 2},
    ):
        with pytest.raises(WeightFileError, match="sliding windows are not supported"):
            from_hf({**described, **used})
    # Published files name a window and switch it off.
    for unused in (
        {"use_sliding_window": False, "sliding_window": 8, "max_window_layers": 2},
        {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 4},
        {"layer_types": ["full_attention"] * 4},
    ):
        assert from_hf({**described, **unused}) == from_hf(described)


def gguf_config(family, **changes):
    """The configuration in a GGUF header; in the names of changes, "__" stands for a dot."""
    fields = {
        "attention.head_count": 4,
        "embedding_length": 32,
        "block_count": 2,
        "feed_forward_length": 16,
        "context_length": 64,
        "attention.sliding_window": 0,
        "attention.layer_norm_rms_epsilon": 1e-6,
        **{name.replace("__", "."): value for name, value in changes.items()},
    }
    header = {f"{family}.{key}": value for key, value in fields.items()}
    return from_gguf({"general.architecture": family, **header}, {"token_embd.weight": (19, 32)})


@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_a_window_in_the_gguf_of_a_qwen_is_refused(family):
    assert gguf_config(family).head_dim == 8
    with pytest.raises(WeightFileError, match="sliding windows"):
        gguf_config(family, attention__sliding_window=16)


def test_what_a_gguf_says_about_yarn_is_computed_or_refused():
    yarn = {"rope__scaling__type": "yarn", "rope__scaling__factor": 4.0, "context_length": 4096}
    config = gguf_config("llama", **yarn, rope__scaling__yarn_beta_fast=4.0)
    assert config.frequencies != gguf_config("llama", **yarn).frequencies
    described = {**YARN, "original_max_position_embeddings": 4096, "beta_fast": 4.0}
    wanted = rope_frequencies(8, 1e4, described)
    assert (config.frequencies, config.rope_scale) == wanted
    kinds = ("attn_factor", "yarn_attn_factor", "yarn_ext_factor", "yarn_log_multiplier")
    for name in ("attention.scale", *(f"rope.scaling.{kind}" for kind in kinds)):
        with pytest.raises(WeightFileError, match=name):
            gguf_config("llama", **yarn, **{name.replace(".", "__"): 0.5})
    with pytest.raises(WeightFileError, match="cap of attention scores"):
        gguf_config("gemma3", attention__sliding_window=4, attn_logit_softcapping=50.0)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}


@pytest.mark.parametrize(
    "change",
    [
        {"rms_norm_eps": -1e-6},
        {"rms_norm_eps": float("nan")},
        {"rms_norm_eps": "small"},
        {"rope_theta": -1e4},
        {"rope_theta": float("inf")},
        {"rope_scaling": {**YARN, "attention_factor": -1.0}},
        {"rope_scaling": {**YARN, "mscale": float("nan"), "mscale_all_dim": 1.0}},
        {"rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": -1e3}},
        {"rope_scaling": {**YARN, "mscale": "1", "mscale_all_dim": "1"}},
        {"rope_scaling": {**YARN, "beta_fast": -32.0}},
        {"rope_scaling": {**YARN, "original_max_position_embeddings": 0}},
        {"rope_scaling": {**YARN, "factor": 10**300 * 1.0, "rope_theta": 1.0}},
        {"rope_scaling": ["yarn"]},
        {"rope_scaling": {"rope_type": ["yarn"], "factor": 2}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}},
        {"hidden_size": [16]},
        {"head_dim": -8},
        {"num_key_value_heads": "all"},
        {"max_position_embeddings": 2**40},
    ],
)
def test_a_config_json_that_makes_no_sense_is_refused(change):
    described = {**RECORDS["llama"]["config"], "rms_norm_eps": 1e-6}
    assert from_hf(described).norm_eps == 1e-6
    with pytest.raises(WeightFileError):
        from_hf({**described, **change})


def test_a_new_family_is_a_value_with_names_and_layouts(monkeypatch, tmp_path):
    """With everything unusual at once: joined matrices of unequal widths, [in, out], an offset."""
    names = {name: (name, name) for name in lm.param_shapes(CONFIGS["llama"])["layers"]}
    joined = {name: ("qkv", "qkv") for name in ("query", "key", "value")}
    odd = dataclasses.replace(
        families.FAMILIES["llama"],
        name="odd",
        model_types=("odd",),
        to_hf=lambda config: {**families.FAMILIES["llama"].to_hf(config), "model_type": "odd"},
        from_hf=lambda config: dataclasses.replace(
            families.FAMILIES["llama"].from_hf(config), family="odd"
        ),
        layer_names={**names, **joined, "gate": ("gate_up",) * 2, "up": ("gate_up",) * 2},
        layer_prefix="blocks.",
        optional_prefix="odd.",
        kernels_in_out=True,
        norm_offset=2,
    )
    monkeypatch.setitem(families.FAMILIES, "odd", odd)
    model = random_model("llama", qkv_bias=True, output_bias=True)
    model.config = dataclasses.replace(model.config, family="odd")
    model.save(tmp_path)
    from safetensors.numpy import load_file

    tensors = load_file(tmp_path / "model.safetensors")
    assert tensors["odd.blocks.0.qkv.weight"].shape == (24, (4 + 2 + 2) * 8)
    assert tensors["odd.blocks.0.qkv.bias"].shape == ((4 + 2 + 2) * 8,)
    again = lm.load(tmp_path)
    assert again.config.family == "odd"
    chex.assert_trees_all_close(again.params, jax.device_get(model.params), atol=1e-6)
