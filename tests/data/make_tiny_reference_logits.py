"""Writes tiny_reference_logits.json: logits of tiny models of every family, by transformers.

Needs torch and transformers, which are not requirements of this repository:

    python tests/data/make_tiny_reference_logits.py

A record holds config.json, names and shapes of the tensors, token ids and logits. The weights
follow from the names and shapes (`weights`), so that the file stays small.
"""

import json
import zlib
from pathlib import Path

import numpy as np

IDS = [[3, 1, 4, 1, 5, 9, 2, 6, 5, 3], [2, 7, 1, 8, 2, 8, 1, 8, 2, 8]]
_LLAMA_LIKE = {
    "vocab_size": 19,
    "hidden_size": 16,
    "intermediate_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "rope_theta": 1000.0,
}
_GEMMA3 = {
    **_LLAMA_LIKE,
    "model_type": "gemma3_text",
    "num_hidden_layers": 3,
    "head_dim": 8,
    "sliding_window": 4,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    "rope_local_base_freq": 100.0,
    "query_pre_attn_scalar": 5,
    "final_logit_softcapping": 3.0,
}
_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 8}
CONFIGS = {
    "llama": {**_LLAMA_LIKE, "model_type": "llama"},
    "llama-biases": {
        **_LLAMA_LIKE,
        "model_type": "llama",
        "attention_bias": True,
        "mlp_bias": True,
        "tie_word_embeddings": True,
    },
    "gemma3": _GEMMA3,
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 19,
        "n_embd": 16,
        "n_layer": 2,
        "n_head": 4,
        "n_positions": 32,
    },
    "qwen2": {**_LLAMA_LIKE, "model_type": "qwen2"},
    "qwen2-tied": {**_LLAMA_LIKE, "model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-yarn": {**_LLAMA_LIKE, "model_type": "qwen2", "rope_scaling": _YARN},
    "llama-yarn-mscale": {
        **_LLAMA_LIKE,
        "model_type": "llama",
        "rope_scaling": {**_YARN, "mscale": 1.5, "mscale_all_dim": 0.25, "beta_fast": 4.0},
    },
    "qwen3": {**_LLAMA_LIKE, "model_type": "qwen3", "head_dim": 6},
    "qwen3-tied-biases": {
        **_LLAMA_LIKE,
        "model_type": "qwen3",
        "head_dim": 8,
        "attention_bias": True,
        "tie_word_embeddings": True,
    },
}


def weights(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Random float32 tensors that depend on their names and shapes only."""
    tensors = {}
    for name, shape in shapes.items():
        # RandomState's streams never change between versions of NumPy.
        values = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
        tensors[name] = (0.3 * values).astype(np.float32)
    return tensors


def record(name: str) -> dict:
    """The record of one configuration."""
    import torch
    import transformers

    described = CONFIGS[name]
    config = transformers.AutoConfig.for_model(**described)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    tied = bool(config.tie_word_embeddings)
    shapes = {
        key: list(value.shape)
        for key, value in model.state_dict().items()
        if not (tied and key == "lm_head.weight")
    }
    missing, unexpected = model.load_state_dict(
        {key: torch.tensor(value) for key, value in weights(shapes).items()}, strict=False
    )
    assert set(missing) <= {"lm_head.weight"} and not unexpected
    model.tie_weights()
    with torch.no_grad():
        logits = model.eval()(torch.tensor(IDS)).logits.numpy()
    return {
        "name": name,
        "config": described | {"tie_word_embeddings": tied},
        "shapes": shapes,
        "logits": np.round(logits.astype(np.float64), 5).tolist(),
    }


def main() -> None:
    """Writes the file beside this one."""
    import transformers

    found = {
        "transformers": transformers.__version__,
        "ids": IDS,
        "records": [record(name) for name in CONFIGS],
    }
    path = Path(__file__).with_name("tiny_reference_logits.json")
    path.write_text(json.dumps(found, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n")


if __name__ == "__main__":
    main()
