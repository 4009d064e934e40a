"""The pieces of `noisy_regression`: training, claims, mechanism, shifted tasks, presets."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ico.train
from experiments.noisy_regression import testbed, variants
from experiments.noisy_regression.mechanism import mechanism, step_regressions
from experiments.noisy_regression.out_of_distribution import Shift, shifted
from experiments.noisy_regression.paper import paper
from experiments.noisy_regression.table1 import published, table1
from ico import algorithms as al
from ico import lab, tasks
from ico.report import verdict

CPU, SMOKE = paper.presets["cpu"], paper.presets["smoke"]
draw = jax.jit(tasks.noisy_context, static_argnums=1)


def judged(study, records):
    """Name of a claim -> measurement on these records, and verdict."""
    found = zip(study.claims.items(), study.measure(lab.Records(records)), strict=True)
    return {name: (one, verdict(claim, one)) for (name, claim), one in found}


def verdicts(study, records):
    return {name: said for name, (_, said) in judged(study, records).items()}


@pytest.mark.slow
def test_one_layer_learns_its_best_scalar(tmp_path):
    """Of models trained side by side for two noise settings; found again, they are the same."""
    config = dataclasses.replace(
        SMOKE,
        sigma_sets=(),
        batch_size=128,
        spectra_pool=2_000,
        steps_per_layer=300,
        learning_rate=0.01,
    )
    trained, settings = variants.train_variant(paper.run(config, directory=tmp_path), "DIAG", 1)
    assert settings == (0.0, 5.0)
    chex.assert_shape(trained.history["loss"], (3, 2, 2))
    assert (trained.history["loss"][-1] < 0.8 * 5).all()
    # One layer has a single scalar that matters; its best value without noise is known:
    # w = -w_yx sum y x minimises E|w - w_true|^2 = D - 2 a N D + a^2 N (N + D + 1) D at 1 / 31.
    params = trained.seed(0, 0)
    w_yx = float((params["p_y"] * params["q_x"])[0, 0])
    assert abs(-w_yx * 31 - 1) < 0.05
    again, _ = variants.train_variant(paper.run(config, directory=tmp_path), "DIAG", 1)
    chex.assert_trees_all_equal(trained.params, again.params)


def test_the_effective_step_of_a_learner_without_noise_falls_too():
    """Why the study shows GD++ and ConstRR beside DIAG: the claim does not tell them apart."""
    drawn, steps = draw(jax.random.key(0), tasks.NoisyRegression(4_000)), []
    for sigma in (0.0, 2.0, 5.0):
        statistics = testbed.at_noise(drawn, (sigma,)).statistics
        w, ols = (al.ridge_weights(statistics, s) for s in (4.0, 0.0))
        steps.append(float(jnp.sum(w * ols) / jnp.sum(ols**2)))
    assert steps[0] > steps[1] > steps[2]


@pytest.mark.parametrize(
    ("w_xy", "said"),
    [
        (0.0003, "reproduced"),
        (-0.0003, "not reproduced"),
        pytest.param(0.0, "not reproduced", marks=pytest.mark.slow),
    ],
)
def test_momentum_is_found_where_it_is(w_xy, said):
    """Without w_xy there is none, though the regression of whole steps sees some all the same; of
    the other sign it goes against a step.
    """
    scalars = al.DiagonalScalars(
        jnp.full(4, -0.002), jnp.full(4, w_xy), jnp.full(4, -1 / 60), jnp.full(4, -4e-4)
    )
    test = testbed.at_noise(draw(jax.random.key(1), tasks.NoisyRegression(4_000)))
    records = list(step_regressions(scalars, test))
    assert len(records) == 2 * 3
    found = judged(mechanism, records)
    assert found["momentum_fit"][0].value > 0.9
    momentum, verdict_of_momentum = found["momentum"]
    assert verdict_of_momentum == said
    assert (momentum.value == 0) == (w_xy == 0)
    if w_xy == 0:
        rows = mechanism.tabulate(lab.Records(records))["what explains a step"]
        assert any(row["last step low"] > 0 or row["last step high"] < 0 for row in rows)


def cell(noise, learner, layers, loss, inputs=10):
    loss = np.full(8, loss)
    axes = {"noise": noise, "learner": learner, "layers": layers, "inputs": inputs, "pairs": 20}
    return lab.record(**axes, loss=loss)


CELLS = (
    ("5", "DIAG", 4, 0.059),
    ("5", "FULL", 4, 10.0),
    ("5", "AdaRR", None, 0.068),
    ("3", "DIAG", 4, 0.041),
    ("{1, 3}", "DIAG", 4, 0.2),
)


def test_claims_on_the_table_name_their_cells():
    found = verdicts(table1, [cell(*place) for place in CELLS])
    assert found["four_layers"] == "reproduced"  # of noise up to 3 and 5, as it says
    assert found["diag_below_ada"] == "reproduced"
    assert found["diag_like_full"] == "not reproduced"  # an untrained FULL is no peer
    assert found["seven_layers"] == "inconclusive"


def test_other_sizes_leave_the_claims_of_the_table_unjudged():
    found = verdicts(table1, [cell(*place, inputs=4) for place in CELLS])
    assert set(found.values()) == {"inconclusive"}


def test_published_numbers():
    def number(*place):
        return published(cell(*place, 0.0))

    assert number("5", "DIAG", 4) == 0.059
    assert number("{1, 3}", "GD++", 1) == 1.007
    assert number("0", "AdaRR", None) == 0.0
    assert number("5", "DIAG, free scalars", 4) is None
    assert number("4", "DIAG", 4) is None


def test_the_oracle_of_a_shifted_task_is_the_posterior_mean(x64):
    """Against Bayes' rule on explicit contexts, inputs stretched and weights scaled."""
    shift = Shift("", input_scale=1.5, weight_scale=2.0, sigma=0.7, stretch=2.0)
    rng = np.random.default_rng(0)
    x, e, w = rng.normal(size=(6, 9, 3)), rng.normal(size=(6, 9)), rng.normal(size=(6, 3))
    xx, xe = np.einsum("bnd,bne->bde", x, x), np.einsum("bnd,bn->bd", x, e)
    parts = xx, xe, np.sum(e**2, 1), w, np.full(6, 0.5)
    test, scale_D = shifted(tasks.NoisyContext(*map(jnp.asarray, parts)), shift)
    inputs = x * np.asarray(scale_D)
    y = np.einsum("bnd,bd->bn", inputs, 2.0 * w) + 0.7 * e
    np.testing.assert_allclose(test.statistics.yy, np.sum(y**2, 1))
    for b in range(6):
        precision = inputs[b].T @ inputs[b] / 0.7**2 + np.eye(3) / 2.0**2
        mean = np.linalg.solve(precision, inputs[b].T @ y[b] / 0.7**2)
        np.testing.assert_allclose(test.oracle[b], mean, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"num_context": 10}, "num_context"),
        ({"sigma_max": (-1.0, 5.0)}, "sigma_max"),
        ({"sigma_max": (3.0,)}, "sigma_max"),
        ({"sigma_sets": ((1.0, 2.0, 3.0, 4.0),)}, "sigma_sets"),
        ({"sigma_sets": ((1.0, 3.0), (1.0, 3.0))}, "sigma_sets"),
        ({"depths": (0, 1)}, "depths"),
        ({"deep_depth": 0}, "deep_depth"),
        ({"eval_tasks": 1}, "eval_tasks"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"depths": (1,)}, "depths"),
        ({"num_inputs": 11, "num_context": 30}, "num_inputs"),
    ],
)
def test_settings_that_make_no_sense(changes, word):
    with pytest.raises(ValueError, match=f"^{word}"):
        dataclasses.replace(CPU, **changes).validate()


class StartedError(Exception):
    """Raised in place of training."""


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "depth"), [("DIAG", 7), ("FULL", 3), ("GD++", 2)])
def test_paper_preset_starts(variant, depth, tmp_path, monkeypatch):
    """Its first step has the right shapes, at its full sizes."""
    config = dataclasses.replace(paper.presets["paper"], spectra_pool=100)

    def only_shapes(step, state, data, config_of_loop, *, given, given_axes, **_):
        def once(state, given):
            return step(state, data(jax.random.fold_in(state.key, state.step), given), given)

        after, _ = jax.eval_shape(jax.vmap(once, in_axes=(0, given_axes)), state, given)
        chex.assert_trees_all_equal_shapes_and_dtypes(
            state._replace(key=None), after._replace(key=None)
        )
        chex.assert_shape(state.step, (config.num_seeds * len(config.settings),))
        assert config_of_loop.num_steps == 200_000
        raise StartedError

    monkeypatch.setattr(ico.train, "fit", only_shapes)
    with pytest.raises(StartedError):
        variants.train_variant(paper.run(config, directory=tmp_path), variant, depth)


_TRAINING = """
import dataclasses, os, sys, threading, time
from pathlib import Path
import jax, numpy as np
from experiments.noisy_regression.paper import paper
from experiments.noisy_regression.variants import train_variant
assert len(jax.devices()) == 2
out, kill = Path(sys.argv[1]), sys.argv[2] == "kill"
config = dataclasses.replace(
    paper.presets["smoke"], sigma_sets=(), batch_size=8, steps_per_layer=3_000, learning_rate=1e-3
)
def killer():
    while not list(out.glob("checkpoints/*/checkpoints/[0-9]*")):
        time.sleep(0.005)
    os._exit(9)
if kill:
    threading.Thread(target=killer, daemon=True).start()
trained, _ = train_variant(paper.run(config, directory=out), "DIAG", 2)
np.save(out / "weights.npy", np.concatenate([np.ravel(a) for a in jax.tree.leaves(trained.params)]))
"""


@pytest.mark.slow
def test_training_is_split_over_devices_killed_and_goes_on(tmp_path, python, environment):
    """On two devices: the same weights to the last bit, whether killed at a checkpoint or not."""
    two = environment | {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}

    def run(name, how):
        (tmp_path / name).mkdir(exist_ok=True)
        return python("-c", _TRAINING, tmp_path / name, how, env=two)

    whole = run("whole", "run")
    assert whole.returncode == 0, whole.stderr
    assert run("killed", "kill").returncode == 9
    assert not (tmp_path / "killed" / "weights.npy").exists()
    assert run("killed", "run").returncode == 0
    weights = [np.load(tmp_path / name / "weights.npy") for name in ("whole", "killed")]
    np.testing.assert_array_equal(*weights)
