"""Parameters on a mesh: axes have names, and a sharded model computes what the whole one does."""

import os

import jax
import pytest

from ico.lm import param_shapes
from ico.lm._sharding import RULES, param_axes, param_shardings
from ico.train import make_mesh
from tests.lm.conftest import CONFIGS


@pytest.mark.parametrize("name", CONFIGS)
def test_every_axis_of_every_parameter_has_a_name_and_its_size(name):
    config = CONFIGS[name]
    sizes = {
        "vocab": config.vocab_size, "heads": config.num_heads, "kv_heads": config.num_kv_heads,
        "mlp": config.mlp_dim, "embed": config.dim, "head_dim": config.head_dim,
        "positions": config.context_length, "layers": config.num_layers,
    }  # fmt: skip
    assert set(sizes) == set(RULES)
    is_leaf = lambda a: isinstance(a, tuple)  # noqa: E731
    axes = jax.tree.leaves(param_axes(config), is_leaf=is_leaf)
    shapes = jax.tree.leaves(param_shapes(config), is_leaf=is_leaf)
    assert [tuple(sizes[axis] for axis in each) for each in axes] == shapes


def test_a_rule_for_no_axis_is_refused():
    with pytest.raises(ValueError, match="experts"):
        param_shardings(CONFIGS["llama"], make_mesh({"data": 1}), {"experts": "model"})


PROGRAM = """
import dataclasses, jax, numpy as np
from ico import lm, train
from tests.lm.conftest import CONFIGS
assert len(jax.devices()) == 4
mesh = train.make_mesh({"data": 2, "model": 2})
ids = np.arange(24).reshape(4, 6) % 11
config = CONFIGS[FAMILY]
params = jax.jit(lm.init_params, static_argnums=(0, 2))(config, jax.random.key(0), 0.2)
loss = jax.jit(jax.value_and_grad(
    lambda p: lm.next_token_loss(p, config, ids, np.ones(ids.shape, np.float32))))
whole = loss(params)
sharded = loss(lm.shard_params(params, config, mesh))
up = lm.shard_params(params, config, mesh)["layers"]["up"]["kernel"]
assert up.sharding.shard_shape(up.shape)[-1] == config.mlp_dim // 2
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), whole, sharded)
print("equal")
"""


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_four_devices_compute_what_one_does(family, python, environment):
    environment["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    )
    done = python("-c", PROGRAM.replace("FAMILY", repr(family)), env=environment)
    assert "equal" in done.stdout, done.stderr
