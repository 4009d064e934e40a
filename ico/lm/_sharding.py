"""Sharded parameters: every axis has a name, and rules map the names to axes of a mesh.

mesh = ico.train.make_mesh({"data": 2, "model": 4})
lm.params = ico.lm.shard_params(lm.params, lm.config, mesh)
"""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ico.lm._config import DecoderConfig
from ico.lm._decoder import Params, param_shapes

# Tensor parallelism: heads, the MLP's inner axis and the vocabulary are split over "model", so that
# a layer needs one sum over devices after its attention and one after its MLP. To shard parameters
# fully, map "embed" to "data".
RULES: dict[str, str | None] = {
    "vocab": "model",
    "heads": "model",
    "kv_heads": "model",
    "mlp": "model",
    "embed": None,
    "head_dim": None,
    "positions": None,
    "layers": None,
}

_NAMES = {
    "query": ("embed", "heads", "head_dim"),
    "key": ("embed", "kv_heads", "head_dim"),
    "value": ("embed", "kv_heads", "head_dim"),
    "output": ("heads", "head_dim", "embed"),
    "gate": ("embed", "mlp"),
    "up": ("embed", "mlp"),
    "down": ("mlp", "embed"),
    "query_norm": ("head_dim",),
    "key_norm": ("head_dim",),
}
# The number of leading axes that a kernel contracts with its input, if not 1; its bias has the
# others.
_INPUTS = {"output": 2}


def param_axes(config: DecoderConfig) -> Params:
    """The names of every parameter's axes, as a tree of tuples (see `param_shapes`)."""

    def names(path, shape):
        keys = [entry.key for entry in path]
        if keys[0] in ("embedding", "head"):
            return ("vocab", "embed")
        if keys[0] == "positions":
            return ("positions", "embed")
        if keys[0] == "final_norm":
            return ("embed",)
        axes = _NAMES.get(keys[1], ("embed",))  # the other norms
        if keys[1] in _NAMES and keys[-1] == "bias" and not keys[1].endswith("norm"):
            axes = axes[_INPUTS.get(keys[1], 1) :]
        return ("layers", *axes)

    shapes = param_shapes(config)
    return jax.tree_util.tree_map_with_path(names, shapes, is_leaf=lambda a: isinstance(a, tuple))


def param_shardings(
    config: DecoderConfig, mesh: Mesh, rules: Mapping[str, str | None] = RULES
) -> Any:
    """A NamedSharding for every parameter.

    Args:
      config: of the decoder.
      mesh: any mesh; rules that name an axis it does not have are ignored.
      rules: name of a parameter's axis -> axis of the mesh, or None. An axis whose size is no
        multiple of the mesh axis (three key heads on four devices) is not split.

    Raises:
      ValueError: a rule for a name that no axis has.
    """
    if unknown := set(rules) - set(RULES):
        raise ValueError(f"no parameter has an axis {sorted(unknown)}; there are {list(RULES)}")
    sizes = dict(mesh.shape)

    def sharding(axes, shape):
        spec, used = [], set()
        for name, length in zip(axes, shape, strict=True):
            axis = rules.get(name)
            fits = axis in sizes and axis not in used and length % sizes[axis] == 0
            spec.append(axis if fits else None)
            used.add(axis if fits else None)
        return NamedSharding(mesh, PartitionSpec(*spec))

    return jax.tree.map(
        sharding,
        param_axes(config),
        param_shapes(config),
        is_leaf=lambda a: isinstance(a, tuple),
    )


def shard_params(
    params: Params, config: DecoderConfig, mesh: Mesh, rules: Mapping[str, str | None] = RULES
) -> Params:
    """Places parameters on the mesh by `param_shardings`; what uses them then runs sharded."""
    return jax.device_put(params, param_shardings(config, mesh, rules))
