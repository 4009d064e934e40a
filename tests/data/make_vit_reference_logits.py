"""Writes vit_reference_logits.json: logits of a tiny vision transformer, by transformers.

Needs a version of transformers that still has Flax models (4.46), which is no requirement of this
repository:

    python tests/data/make_vit_reference_logits.py

The weights follow from the tensors' names and shapes (`tensors`).
"""

import json
from pathlib import Path

import numpy as np

from tests.data.make_tiny_reference_logits import weights

CONFIG = {
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "image_size": 8,
    "patch_size": 4,
    "num_channels": 3,
}
LABELS = 5


def pixels() -> np.ndarray:
    """Two images, [2, 8, 8, 3]."""
    return np.random.RandomState(0).standard_normal((2, 8, 8, 3)).astype(np.float32)


def shapes() -> dict[str, list[int]]:
    """Of the tensors as PyTorch names them."""
    D, hidden, P = 12, 20, 4
    found = {
        "vit.embeddings.cls_token": [1, 1, D],
        "vit.embeddings.position_embeddings": [1, 5, D],
        "vit.embeddings.patch_embeddings.projection.weight": [D, 3, P, P],
        "vit.embeddings.patch_embeddings.projection.bias": [D],
        "vit.layernorm.weight": [D],
        "vit.layernorm.bias": [D],
        "classifier.weight": [LABELS, D],
        "classifier.bias": [LABELS],
    }
    for i in range(2):
        own = f"vit.encoder.layer.{i}."
        dense = {f"attention.attention.{n}": (D, D) for n in ("query", "key", "value")}
        dense |= {
            "attention.output.dense": (D, D),
            "intermediate.dense": (hidden, D),
            "output.dense": (D, hidden),
        }
        for name, shape in dense.items():
            found |= {f"{own}{name}.weight": list(shape), f"{own}{name}.bias": [shape[0]]}
        for name in ("layernorm_before", "layernorm_after"):
            found |= {f"{own}{name}.weight": [D], f"{own}{name}.bias": [D]}
    return found


def tensors() -> dict[str, np.ndarray]:
    """So large that the kind of GELU makes a difference."""
    return {name: 3 * tensor for name, tensor in weights(shapes()).items()}


def main() -> None:
    """Writes the file beside this one."""
    import transformers
    from flax.traverse_util import unflatten_dict
    from transformers.models.vit.modeling_flax_vit import FlaxViTForImageClassification

    config = transformers.ViTConfig(**CONFIG, num_labels=LABELS)
    flat = {}
    for name, tensor in tensors().items():
        *path, last = name.split(".")
        if last == "weight" and tensor.ndim == 4:
            last, tensor = "kernel", tensor.transpose(2, 3, 1, 0)
        elif last == "weight" and tensor.ndim == 2:
            last, tensor = "kernel", tensor.T
        elif last == "weight":
            last = "scale"
        flat[(*path, last)] = tensor
    model = FlaxViTForImageClassification(config, seed=0)
    images = pixels().transpose(0, 3, 1, 2)
    logits = np.asarray(model(images, params=unflatten_dict(flat)).logits, np.float64)
    record = {
        "transformers": transformers.__version__,
        "config": config.to_dict() | {"_name_or_path": ""},
        "logits": np.round(logits, 6).tolist(),
    }
    kept = ("hidden_act", "layer_norm_eps", *CONFIG)
    record["config"] = {name: record["config"][name] for name in kept}
    path = Path(__file__).with_name("vit_reference_logits.json")
    path.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
