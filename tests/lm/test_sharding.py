"""Parameters on a mesh: axes have names, and a sharded model computes what a whole one does."""

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
        "vocab": config.vocab_size,
        "heads": config.num_heads,
        "kv_heads": config.num_kv_heads,
        "mlp": config.mlp_dim,
        "embed": config.dim,
        "head_dim": config.head_dim,
        "positions": config.context_length,
        "layers": config.num_layers,
    }
    assert set(sizes) == set(RULES)

    def is_leaf(node):
        return isinstance(node, tuple)

    axes = jax.tree.leaves(param_axes(config), is_leaf=is_leaf)
    shapes = jax.tree.leaves(param_shapes(config), is_leaf=is_leaf)
    assert [tuple(sizes[axis] for axis in each) for each in axes] == shapes


def test_a_rule_for_no_axis_is_refused():
    with pytest.raises(ValueError, match="experts"):
        param_shardings(CONFIGS["llama"], make_mesh({"data": 1}), {"experts": "model"})


PROGRAM = """
import chex
chex.set_n_cpu_devices(4)
import jax, numpy as np
from ico import lm, train
from tests.lm.conftest import CONFIGS
chex.assert_devices_available(4, "cpu")
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
chex.assert_trees_all_close(jax.device_get(sharded), jax.device_get(whole), atol=2e-5)
print("equal")
"""


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_four_devices_compute_what_one_does(family, python):
    done = python("-c", PROGRAM.replace("FAMILY", repr(family)))
    assert "equal" in done.stdout, done.stderr
