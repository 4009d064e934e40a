"""Published vision transformers are read as what they are.

Dimension key: D width, H heads, A head width.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from ico import models
from ico.files import FileError
from tests.data.make_vit_reference_logits import pixels, tensors

REFERENCE = json.loads(
    (Path(__file__).parents[1] / "data" / "vit_reference_logits.json").read_text()
)


@pytest.fixture
def folder(tmp_path):
    save_file(tensors(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(REFERENCE["config"]))
    return tmp_path


def logits(vit, params):
    tokens = vit.apply({"params": params["vit"]}, jnp.asarray(pixels()))
    return models.dense(params["head"], tokens[:, 0])


def test_logits_are_those_of_transformers(folder):
    vit, params = models.load_vit(folder)
    assert (vit.patch, vit.dim, vit.depth, vit.num_heads, vit.mlp_dim) == (4, 12, 2, 3, 20)
    np.testing.assert_allclose(logits(vit, params), REFERENCE["logits"], atol=1e-5)
    # With the other GELU they are not: it comes from the file.
    other = logits(vit.clone(exact_gelu=False), params)
    assert np.abs(other - np.asarray(REFERENCE["logits"])).max() > 3e-5


def test_the_layout_of_google_holds_the_same_model(folder, tmp_path):
    """Written by hand from the other layout, whose GELU and epsilon differ from this one's."""
    vit, params = models.load_vit(folder)
    own = params["vit"]
    flat = {
        "cls": own["class_token"][None, None],
        "Transformer/posembed_input/pos_embedding": own["position"][None],
        "embedding/kernel": own["embed_patches"]["kernel"].reshape(4, 4, 3, 12),
        "embedding/bias": own["embed_patches"]["bias"],
        "head/kernel": params["head"]["kernel"],
        "head/bias": params["head"]["bias"],
    }
    names = {
        "attention_norm": "LayerNorm_0",
        "mlp_norm": "LayerNorm_2",
        "up": "MlpBlock_3/Dense_0",
        "down": "MlpBlock_3/Dense_1",
    }
    names |= {
        f"attention/{n}": f"MultiHeadDotProductAttention_1/{n}"
        for n in ("query", "key", "value", "out")
    }
    for i in range(2):
        for ours, theirs in names.items():
            layer = own[f"block_{i}"]
            for part in ours.split("/"):
                layer = layer[part]
            for leaf, value in layer.items():
                flat[f"Transformer/encoderblock_{i}/{theirs}/{leaf}"] = value
    for leaf, value in own["norm"].items():
        flat[f"Transformer/encoder_norm/{leaf}"] = value
    np.savez(tmp_path / "vit.npz", **flat)
    again, read = models.load_vit(tmp_path / "vit.npz")
    assert again == models.ViT(4, 12, 2, 3, 20, True)
    jax.tree.map(np.testing.assert_array_equal, read, params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("vit.embeddings.cls_token"), "cls_token"),
        (lambda t: t.pop("vit.encoder.layer.1.output.dense.weight"), "layer.1.output.dense"),
        (lambda t: [t.pop(n) for n in list(t) if ".layer.0." in n], "blocks"),
    ],
)
def test_another_model_is_refused(change, message, folder):
    others = tensors()
    change(others)
    save_file(others, folder / "model.safetensors")
    with pytest.raises(FileError, match=message):
        models.load_vit(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_act": "relu"}, "hidden_act"),
        ({"num_attention_heads": 0}, "heads"),
        ({"num_attention_heads": 5}, "heads"),
        ({"layer_norm_eps": "x"}, "no vision transformer"),
    ],
)
def test_another_configuration_is_refused(change, message, folder):
    (folder / "config.json").write_text(json.dumps(REFERENCE["config"] | change))
    with pytest.raises(FileError, match=message):
        models.load_vit(folder)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("vit.encoder.layer.0.attention.attention.query.weight", (12, 11)),
        ("vit.encoder.layer.1.intermediate.dense.weight", (19, 12)),
        ("vit.embeddings.position_embeddings", (5, 12)),
        ("vit.embeddings.position_embeddings", (1, 6, 12)),
    ],
)
def test_tensors_of_other_shapes_are_refused(name, shape, folder):
    save_file(tensors() | {name: np.zeros(shape, np.float32)}, folder / "model.safetensors")
    with pytest.raises(FileError):
        models.load_vit(folder)


def test_layers_that_are_not_known_are_refused(tmp_path):
    for part in ("pre_logits/kernel", "conv_root/kernel"):
        np.savez(tmp_path / "vit.npz", **{part: np.zeros((2, 2))})
        with pytest.raises(FileError, match="not supported"):
            models.load_vit(tmp_path / "vit.npz")


def test_damaged_and_missing_files_are_refused(folder):
    (folder / "model.safetensors").write_bytes(b"no safetensors")
    with pytest.raises(FileError, match="no safetensors file"):
        models.load_vit(folder)
    (folder / "vit.npz").write_bytes(b"no npz")
    with pytest.raises(FileError, match=r"no \.npz"):
        models.load_vit(folder / "vit.npz")
    with pytest.raises(FileNotFoundError):
        models.load_vit(folder / "other.npz")
