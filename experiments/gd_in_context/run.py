"""The studies of `gd_in_context`, by the names that config.py gives them."""

from experiments.gd_in_context import depth, features, real_data, single_layer

STUDIES = {
    "one_layer": single_layer.one_layer,
    "dimensions": single_layer.dimensions,
    "roll_out": single_layer.roll_out,
    "deep": depth.deep,
    "full_block": depth.full_block,
    "out_of_distribution": single_layer.out_of_distribution,
    "softmax_heads": single_layer.softmax_heads,
    "layer_norm": single_layer.layer_norm,
    "distractors": single_layer.distractors,
    "sine_mlp": features.sine_mlp,
    "token_copy": features.token_copy,
    "fixed_task_set": single_layer.fixed_task_set,
    "real_data": real_data.real_data,
}
