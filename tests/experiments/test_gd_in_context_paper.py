"""The paper preset starts: its first training step has the right shapes, at its full sizes."""

import jax
import jax.numpy as jnp
import pytest

from experiments.gd_in_context import depth, features, single_layer, training
from experiments.gd_in_context.config import PAPER
from experiments.launch import Context


class StartedError(Exception):
    """Raised in place of training."""


def only_shapes(step, state, data, config, **_):
    """Stands in for `ico.train.fit`: one step of every seed, by its shapes alone."""

    def once(state):
        return step(state, data(jax.random.fold_in(state.key, state.step)))

    after, metrics = jax.eval_shape(jax.vmap(once), state)
    kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, after))
    assert kinds[0] == kinds[1]
    assert metrics["loss"].shape == (PAPER.num_seeds,)
    assert config.num_steps >= 5_000
    raise StartedError


@pytest.mark.parametrize(
    "study",
    [single_layer.one_layer, single_layer.layer_norm,
     pytest.param(depth.full_block, marks=pytest.mark.slow), features.sine_mlp,
     features.token_copy, single_layer.fixed_task_set],
)  # fmt: skip
def test_paper_preset_starts(study, tmp_path, monkeypatch):
    monkeypatch.setattr(training.train, "fit", only_shapes)
    for module in (single_layer, features):
        monkeypatch.setattr(module, "searched_rate", lambda *_: {"rate": jnp.array(6.0)})
    context = Context(PAPER, tmp_path, 0, "paper", False)
    with pytest.raises(StartedError):
        study(context)
