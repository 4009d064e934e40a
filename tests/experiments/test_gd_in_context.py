"""The mathematics of `gd_in_context`, what is left unjudged, and that its paper preset starts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.gd_in_context import (
    deep,
    fixed_task_set,
    full_block,
    layer_norm,
    one_layer,
    real_data,
    regression,
    roll_out,
    sine_mlp,
    token_copy,
)
from experiments.gd_in_context.paper import Config, paper
from experiments.gd_in_context.regression import GD, LAYER, ZERO
from ico import algorithms, lab, train
from ico.algorithms import constructions
from ico.report import style

S, T = 3, 20
BUILT = constructions.gd(6.0, num_context=10, num_inputs=10)


def loss(mean=0.2, *shape):
    """Losses [S, T] or of another shape around a mean."""
    rng = np.random.default_rng(0)
    return mean * (1 + 0.01 * rng.normal(size=shape or (S, T)))


def verdict(study, name, records):
    """What a claim is measured to be, None if it is not judged."""
    found = study.measure(lab.Records(records))
    value = next(one.value for one in found if one.claim == f"{study.name}.{name}")
    return None if np.isnan(value) else value


def test_one_step_at_the_best_rate_has_its_closed_form_loss(tmp_path):
    """0.20623 at the rate 6.061, as a simulation in float64 gave it."""
    run = paper.run(Config(closed_form_tasks=200_000), directory=tmp_path)
    losses_T = one_layer.closed_form_losses(run, (algorithms.gd, {"rate": 6.061}))
    chex.assert_shape(losses_T, (25_000,))
    assert losses_T.mean() == pytest.approx(0.20623, rel=0.01)


def test_the_constructed_weights_are_at_no_distance_from_themselves():
    """However the factor between W_KQ and W_PV is chosen, which no layer can tell."""
    attention = BUILT["block_0"]["attention"]
    scaled = {"key": 3 * attention["key"], "out": attention["out"] / 3}
    other = {"block_0": {"attention": attention | scaled}}
    both = jax.tree.map(lambda *leaves: jnp.stack(leaves), BUILT, other)
    for record in one_layer.weights(both, BUILT):
        chex.assert_trees_all_close(record["error"], np.zeros((2, 1)), atol=1e-6)


def test_the_rate_is_searched_once_a_run(tmp_path, monkeypatch):
    run = paper.run(Config(search_tasks=64), directory=tmp_path)
    rate = regression.searched_rate(run)["rate"]
    monkeypatch.setattr(algorithms, "grid_search", None)
    chex.assert_trees_all_equal(regression.searched_rate(run)["rate"], rate)


def test_two_models_that_answer_zero_do_not_agree_on_sines():
    def judged(step):
        learners = {sine_mlp.ATTENTION: step, sine_mlp.DESCENT: step, ZERO: 0.02}
        records = [lab.record(learner=name, loss=loss(mean)) for name, mean in learners.items()]
        return verdict(sine_mlp.sine_mlp, "loss_ratio", records)

    assert judged(0.02) is None
    assert judged(0.002) == pytest.approx(1)


def test_a_linear_first_layer_is_judged_beside_a_softmax_one_that_learned():
    def judged(softmax):
        learners = {token_copy.SOFTMAX: softmax, token_copy.LINEAR: 0.4, GD: 0.2}
        records = [lab.record(learner=name, loss=loss(mean)) for name, mean in learners.items()]
        records[0].values["cosine"] = loss(0.9)
        return verdict(token_copy.token_copy, "linear_first_layer_ratio", records)

    assert judged(0.4) is None
    assert judged(0.21) == pytest.approx(2)


def test_what_was_not_run_is_not_judged():
    steps = [
        lab.record(step=step, learner=name, loss=loss(0.2 / step))
        for step in range(1, 20)
        for name in (LAYER, GD)
    ]
    assert verdict(roll_out.roll_out, "loss_ratio", steps) is None
    last = [lab.record(step=20, learner=name, loss=loss()) for name in (LAYER, GD)]
    assert verdict(roll_out.roll_out, "loss_ratio", steps + last) == pytest.approx(1)

    chains = {"tied": (1, 2, 5, 10), "untied": (1, 2, 5)}
    models = [
        lab.record(depth=depth, weights=sharing, learner=deep.MODEL, loss=loss(0.2 - depth / 100))
        for sharing, depths in chains.items()
        for depth in depths
    ]
    fall = verdict(deep.deep, "falls_with_depth", models)
    assert fall == pytest.approx(0.01, rel=0.1)  # the smallest, from one layer to two
    assert verdict(deep.deep, "falls_with_depth", models[:-1]) is None


def test_what_diverged_is_drawn():
    step = np.arange(1, 7)
    single = [lab.record("curve", of="loss", learner=GD, step=step, value=loss(0.2, 6))]
    for place, name, learner in one_layer.CURVES:
        values = loss(0.3, S, 6)
        values[-1] = np.nan if name == "interpolated" else values[-1]
        single.append(lab.record("curve", of=place, learner=learner, step=step, value=values))
    matrices = {"matrices": loss(1.0, S, 11, 11), "error": loss(0.1, S, 1)}
    single += [lab.record("weights", product=name, **matrices) for name in ("kq", "pv")]
    spoilt = loss()
    spoilt[-1] = np.inf
    repeated = [
        lab.record(step=number, learner=name, loss=spoilt if name == LAYER else loss(0.2, T))
        for number in (1, 2)
        for name in (LAYER, GD)
    ]
    names = [LAYER, real_data.TRAINED_RATE, real_data.NO_UPDATE_SCALE, real_data.NO_INPUT_SCALE]
    names += [real_data.NEITHER, ZERO, *(f"{name}, searched" for name in real_data.ALGORITHMS)]
    real = [
        lab.record(context=rows, learner=name, loss=spoilt if name == ZERO else loss())
        for rows in (10, 20)
        for name in names
    ]
    pictures = {one_layer.one_layer: single, roll_out.roll_out: repeated, real_data.real_data: real}
    with style():
        for study, records in pictures.items():
            for figure in study.figures:
                picture = figure.draw(lab.Records(records))
                picture.canvas.draw()
                assert picture.axes


class StartedError(Exception):
    """Raised in place of training."""


def only_shapes(step, state, data, config, **_):
    """Stands in for `ico.train.fit`: one step of every seed, by its shapes alone."""

    def once(state):
        return step(state, data(jax.random.fold_in(state.key, state.step)))

    after, metrics = jax.eval_shape(jax.vmap(once), state)
    kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, after))
    assert kinds[0] == kinds[1]
    assert metrics["loss"].shape == (paper.presets["paper"].num_seeds,)
    assert config.num_steps >= 5_000
    raise StartedError


@pytest.mark.parametrize(
    "study",
    [
        one_layer.one_layer,
        layer_norm.layer_norm,
        pytest.param(full_block.full_block, marks=pytest.mark.slow),
        sine_mlp.sine_mlp,
        token_copy.token_copy,
        fixed_task_set.fixed_task_set,
    ],
    ids=lambda study: study.name,
)
def test_paper_preset_starts(study, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "fit", only_shapes)
    monkeypatch.setattr(regression, "searched_rate", lambda *_: {"rate": jnp.array(6.0)})
    with pytest.raises(StartedError):
        study(paper.run(paper.presets["paper"], directory=tmp_path))
