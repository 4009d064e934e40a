"""Samplers of `hypertransformer`, and that its paper preset starts."""

import chex
import jax
import numpy as np
import pytest

import ico
from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from ico import data


def numbered(K, N, size):
    """Images whose every pixel is the number of their class."""
    pixels = np.broadcast_to(np.arange(K)[:, None, None, None, None], (K, N, size, size, 1))
    names = tuple(str(k) for k in range(K))
    return data.ClassImages(pixels.astype(np.uint8), np.full(K, N, np.int32), names, names)


def test_strangers_are_of_no_class_of_the_episode():
    images = numbered(20, 12, 2)
    config = data.FewShot(way=4, shot=2, unlabeled=3, queries=5, num_tasks=30)
    prompt, y_query = testbed.sample_with_strangers(jax.random.key(0), images.arrays, config=config)
    chex.assert_shape([prompt.y, y_query], [(30, 20, 4), (30, 20, 4)])
    chex.assert_shape([prompt.x, prompt.x_query], (30, 20, 4))
    of_support, of_query = (
        np.rint(np.asarray(x)[..., 0] * 127.5 + 127.5).astype(int)
        for x in (prompt.x, prompt.x_query)
    )
    for support, y, query, answer in zip(of_support, prompt.y, of_query, y_query, strict=True):
        labelled = y.sum(-1) > 0
        assert labelled.sum() == 8 and len(set(support[~labelled])) == 4
        class_of = dict(zip(y[labelled].argmax(-1).tolist(), support[labelled], strict=True))
        assert len(set(class_of.values())) == 4
        assert not set(class_of.values()) & set(support[~labelled])
        np.testing.assert_array_equal([class_of[k] for k in answer.argmax(-1).tolist()], query)


class StartedError(Exception):
    """Raised in place of training."""


@pytest.mark.parametrize("method", [*testbed.WRITTEN, *testbed.RIVALS])
def test_paper_preset_starts(method, tmp_path, monkeypatch):
    """The first step has the right shapes, on images of Omniglot's number and size."""
    config = paper.presets["paper"]

    def only_shapes(step, state, data, config_of_loop, *, given, given_axes, **_):
        def once(state, given):
            return step(state, data(jax.random.fold_in(state.key, state.step), given), given)

        after, _ = jax.eval_shape(jax.vmap(once, in_axes=(0, given_axes)), state, given)
        chex.assert_trees_all_equal_shapes_and_dtypes(
            state._replace(key=None), after._replace(key=None)
        )
        # A fifth of them where starts may be begun anew.
        assert config_of_loop.num_steps in (config.num_steps, config.num_steps // 5)
        raise StartedError

    monkeypatch.setattr(data, "omniglot", lambda folder, size: numbered(1_623, 20, size))
    monkeypatch.setattr(testbed, "best_rate", lambda run, method: 1e-3)
    monkeypatch.setattr(ico.train, "fit", only_shapes)
    run = paper.run(config, directory=tmp_path)
    sizes = [len(part.names) for part in testbed.classes(run)]
    assert sizes == [1_150, 50, 423]
    with pytest.raises(StartedError):
        testbed.trained(run, method, max(config.channels), 20, 5)
