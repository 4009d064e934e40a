"""The pieces of `noisy_regression`: priors, training, mechanism, GD++ on spectra, preset."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.launch import Context
from experiments.noisy_regression import evaluation, mechanism, table, training, transfer
from experiments.noisy_regression.config import EXPERIMENT, PAPER, SMOKE
from ico import algorithms as al
from ico import tasks
from ico.models import FreeDiagonalLinearTransformer, GdPlusPlusLinearTransformer
from ico.report import verdict
from ico.types import Statistics

BY_ID = {claim.id: claim for claim in EXPERIMENT.claims}
CPU = EXPERIMENT.presets["cpu"]
draw = jax.jit(tasks.noisy_context, static_argnums=1)


def context(config, folder):
    return Context(config, folder, 0, "smoke", False)


@pytest.mark.parametrize("noise", [0.0, 3.0, (1.0, 3.0), (1.0, 3.0, 5.0)])
def test_traced_prior_is_the_tasks(noise):
    u = jnp.linspace(0, 0.999, 301)
    prior = training.Prior(*map(jnp.asarray, training.prior_of(noise)))
    expected = tasks.NoisyRegression(noise=noise).sigma(u)
    np.testing.assert_allclose(prior.sigma(u), expected, atol=1e-5)


def test_training_loss_leaves_out_what_no_number_holds():
    """A context that a model maps beyond all numbers must not make the gradient infinite."""
    model = FreeDiagonalLinearTransformer(num_layers=4)
    drawn = draw(jax.random.key(0), tasks.NoisyRegression(8))
    wild = drawn._replace(xx=drawn.xx.at[0].mul(1e6))
    params = {
        "model": {name: jnp.full(4, -0.01) for name in ("w_xx", "w_xy", "w_yx", "w_yy")},
        "prior": training.Prior(*map(jnp.asarray, training.prior_of(1.0))),
    }
    slope = jax.jit(jax.value_and_grad(training.loss_of(model, 100.0), has_aux=True))
    (loss, metrics), grads = slope(params, wild)
    assert np.isfinite(loss) and metrics["lost"] >= 1 / 8
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads["prior"]))


def test_training_goes_down_and_never_moves_the_prior(tmp_path):
    config = dataclasses.replace(SMOKE, num_seeds=2, batch_size=128, spectra_pool=2_000)
    settings, recipe = (0.0, 5.0), training.Recipe(300, 128, 0.01)
    run = context(config, tmp_path)
    trained = training.train_models(run, "DIAG", 1, settings, recipe)
    loss = trained.history["loss"]
    assert loss.shape == (3, 4)
    assert (loss[-1] < 0.8 * 5).all()
    again = training.train_models(run, "DIAG", 1, settings, recipe)
    assert again.history == {}  # found, not trained
    jax.tree.map(np.testing.assert_array_equal, trained.params, again.params)
    # One layer has a single scalar that matters; its best value without noise is known.
    best = evaluation.one(trained, 0, 0)
    w_yx = float((best["p_y"] * best["q_x"])[0, 0])
    # w = -w_yx sum y x minimises E|w - w_true|^2 = D - 2 a N D + a^2 N (N + D + 1) D at 1 / 31.
    assert abs(-w_yx * 31 - 1) < 0.05


def test_excess_is_the_expected_excess():
    """Over queries x ~ N(0, I) the paper's adjusted loss has this mean, and more variance."""
    run_task = tasks.NoisyRegression(50_000, num_inputs=3, num_context=8, noise=2.0)
    drawn = draw(jax.random.key(0), run_task)
    bed = evaluation.bed(drawn, 2.0)
    w = 0.8 * bed.oracle
    x = jax.random.normal(jax.random.key(1), w.shape)

    def half(weights):
        return 0.5 * jnp.sum((weights - bed.truth) * x, 1) ** 2

    raw, ours = np.asarray(half(w) - half(bed.oracle)), np.asarray(training.excess(w, bed.oracle))
    gap = raw - ours
    assert abs(gap.mean()) < 4 * gap.std() / np.sqrt(gap.size)
    assert raw.std() > 3 * ours.std()


def test_gd_plus_plus_on_eigenvalues_is_the_model(x64):
    """The recursion that scalars are fitted by is what the model computes."""
    rng = np.random.default_rng(0)
    spectrum, truth = rng.uniform(0.1, 1, 5), rng.normal(size=5)
    scalars = -rng.uniform(0.2, 0.6, (3, 2))
    statistics = Statistics(
        jnp.asarray(spectrum)[None], jnp.asarray(spectrum * truth)[None],
        jnp.asarray([np.sum(spectrum * truth**2)]),
    )  # fmt: skip
    model = GdPlusPlusLinearTransformer(num_layers=3)
    columns = {"p_x": scalars[:, :1], "p_y": scalars[:, 1:], "q_x": np.ones((3, 1))}
    params = jax.tree.map(jnp.asarray, columns)
    w = model.apply({"params": params}, statistics, method="weights")[0]
    error = (truth - np.asarray(w)) / truth
    value, gradient = mechanism._log_error(scalars, spectrum)
    np.testing.assert_allclose(value, np.log(np.mean(error**2)), rtol=1e-10)
    for place in np.ndindex(3, 2):
        step = np.zeros((3, 2))
        step[place] = 1e-6
        ends = [mechanism._log_error(scalars + sign * step, spectrum)[0] for sign in (1, -1)]
        np.testing.assert_allclose(
            gradient.reshape(3, 2)[place], (ends[0] - ends[1]) / 2e-6, rtol=1e-5
        )


def test_a_single_eigenvalue_takes_one_layer():
    assert mechanism._layers_needed(np.ones(4), 0) <= 1


def test_momentum_regression_finds_momentum():
    """Steps made of a gradient and of the last step give their coefficients back."""
    rng = np.random.default_rng(0)
    descent, last, noise = rng.normal(size=(3, 500, 4))
    value, (low, high), beta, last_ci = mechanism._regress(
        0.7 * descent - 0.3 * last + 0.05 * noise, [descent, last]
    )
    assert abs(beta - [0.7, -0.3]).max() < 0.01 and low < value < high and value > 0.99
    assert last_ci[0] < -0.3 < last_ci[1] < 0
    value, _, _, last_ci = mechanism._regress(0.7 * descent + noise, [descent, last])
    assert value < 0.5 and last_ci[0] < 0 < last_ci[1]


def test_the_effective_step_of_a_learner_without_noise_falls_too():
    """Why the study shows GD++ and ConstRR beside DIAG: the claim does not tell them apart."""
    drawn, steps = draw(jax.random.key(0), tasks.NoisyRegression(4_000)), []
    for sigma in (0.0, 2.0, 5.0):
        at = evaluation.bed_at(drawn, sigma)
        w, ols = (al.ridge_weights(at.statistics, s) for s in (4.0, 0.0))
        steps.append(float(jnp.sum(w * ols) / jnp.sum(ols**2)))
    assert steps[0] > steps[1] > steps[2]


@pytest.mark.parametrize(
    ("w_xy", "said"),
    [(0.0, "not reproduced"), (0.0003, "reproduced"), (-0.0003, "not reproduced")],
)
def test_momentum_is_found_where_it_is(w_xy, said):
    """Without w_xy there is none, though the regression of whole steps sees some all the same; of
    the other sign it goes against a step.
    """
    scalars = al.DiagonalScalars(
        jnp.full(4, -0.002), jnp.full(4, w_xy), jnp.full(4, -1 / 60), jnp.full(4, -4e-4)
    )
    bed = evaluation.bed(draw(jax.random.key(1), tasks.NoisyRegression(4_000)), 5.0)
    (fit, momentum), rows = mechanism._momentum(scalars, bed)
    assert len(rows) == 3 and fit.value > 0.9
    assert verdict(BY_ID["mechanism.momentum"], momentum) == said
    assert (momentum.value == 0) == (w_xy == 0)
    if w_xy == 0:
        assert any(row["last step low"] > 0 or row["last step high"] < 0 for row in rows)


def test_a_seed_that_diverged_is_not_the_best(tmp_path, monkeypatch):
    trained = training.Trained(None, {"w": np.zeros((3, 1))}, {})
    monkeypatch.setattr(evaluation, "train_variant", lambda *_: (trained, (5.0,)))
    losses = iter([np.array([1.0]), np.array([0.9]), np.array([np.nan])])
    monkeypatch.setattr(evaluation, "loss_of", lambda *_: next(losses))
    config = dataclasses.replace(SMOKE, num_seeds=3)
    assert evaluation.best(context(config, tmp_path), "DIAG", 4).seed == 1


def test_claims_on_the_table_name_their_cells():
    loss = {"DIAG 4": 0.059, "FULL 4": 10.0, "AdaRR": 0.068}
    losses = {("5", name): np.full(8, value) for name, value in loss.items()}
    losses |= {("3", "DIAG 4"): np.full(8, 0.041), ("{1, 3}", "DIAG 4"): np.full(8, 0.2)}
    found = {claim.claim: claim for claim in table._claims(CPU, losses)}
    verdicts = {name: verdict(claim, found[name]) for name, claim in BY_ID.items() if name in found}
    assert verdicts["table1.four_layers"] == "reproduced"  # of noise up to 3 and 5, as it says
    assert verdicts["table1.diag_like_full"] == "not reproduced"  # an untrained FULL is no peer


def test_who_overflows_is_worse_than_who_does_not():
    """On a task where both overflow neither is."""
    nan, inf = np.nan, np.inf
    gap = transfer._gap(np.array([nan, inf, 1.0, inf, 3.0]), np.array([1.0, 2.0, inf, nan, 1.0]))
    np.testing.assert_array_equal(gap, [inf, inf, -inf, 0, 2])
    assert transfer._median(np.array([nan, 1.0, inf])) == inf


def test_the_oracle_of_a_shifted_task_is_the_posterior_mean(x64):
    """Against Bayes' rule on explicit contexts, inputs stretched and weights scaled."""
    shift = transfer.Shift("", input_scale=1.5, weight_scale=2.0, sigma=0.7, stretch=2.0)
    rng = np.random.default_rng(0)
    x, e, w = rng.normal(size=(6, 9, 3)), rng.normal(size=(6, 9)), rng.normal(size=(6, 3))
    drawn = tasks.NoisyContext(
        *map(jnp.asarray, (np.einsum("bnd,bne->bde", x, x), np.einsum("bnd,bn->bd", x, e),
                           np.sum(e**2, 1), w, np.full(6, 0.5)))
    )  # fmt: skip
    statistics, oracle, scale = transfer._shifted(drawn, shift)
    inputs = x * np.asarray(scale)
    y = np.einsum("bnd,bd->bn", inputs, 2.0 * w) + 0.7 * e
    np.testing.assert_allclose(statistics.yy, np.sum(y**2, 1))
    for b in range(6):
        precision = inputs[b].T @ inputs[b] / 0.7**2 + np.eye(3) / 2.0**2
        mean = np.linalg.solve(precision, inputs[b].T @ y[b] / 0.7**2)
        np.testing.assert_allclose(oracle[b], mean, rtol=1e-6)


def test_published_numbers():
    assert table.published("5", "DIAG", 4) == 0.059
    assert table.published("{1, 3}", "GD++", 1) == 1.007
    assert table.published("5", "DIAG, free scalars", 4) is None


def test_other_sizes_leave_the_claims_of_the_table_unjudged():
    config = dataclasses.replace(CPU, num_inputs=4)
    claims = table._claims(config, {})
    assert {claim.claim for claim in claims} == {
        claim.id for claim in EXPERIMENT.claims if claim.study == "table1"
    }
    assert all(np.isnan(claim.value) for claim in claims)


def test_baselines_have_the_papers_losses():
    """A small version of the first claims, at the paper's sizes."""
    task = tasks.NoisyRegression(20_000, noise=5.0)
    bed = evaluation.bed(draw(jax.random.key(0), task), 5.0)
    tuned = al.tune_ridge(task, num_tasks=8_000, seed=1)
    ada = training.excess(al.adaptive_ridge_weights({}, bed.statistics, 20), bed.oracle)
    best = training.excess(al.adaptive_ridge_weights(tuned.tuned, bed.statistics, 20), bed.oracle)
    assert abs(float(ada.mean()) / 0.068 - 1) < 0.1
    assert abs(float(best.mean()) / 0.049 - 1) < 0.12


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"num_context": 10}, "num_context"),
        ({"sigma_max": (-1.0, 5.0)}, "sigma_max"),
        ({"sigma_max": (3.0,)}, "sigma_max"),
        ({"sigma_sets": ((1.0, 2.0, 3.0, 4.0),)}, "sigma_sets"),
        ({"depths": (0, 1)}, "depths"),
        ({"deep_depth": 0}, "deep_depth"),
        ({"eval_tasks": 1}, "eval_tasks"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"depths": (1,)}, "depths"),
        ({"num_inputs": 11, "num_context": 30}, "num_inputs"),
    ],
)
def test_settings_that_make_no_sense(changes, word):
    with pytest.raises(ValueError, match=word):
        dataclasses.replace(CPU, **changes).validate()


class StartedError(Exception):
    """Raised in place of training."""


@pytest.mark.parametrize(("variant", "depth"), [("DIAG", 7), ("FULL", 3), ("GD++", 2)])
def test_paper_preset_starts(variant, depth, tmp_path, monkeypatch):
    """Its first step has the right shapes, at its full sizes."""

    def only_shapes(step, state, data, config, **_):
        def once(state):
            return step(state, data(jax.random.fold_in(state.key, state.step)))

        after, _ = jax.eval_shape(jax.vmap(once), state)
        kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, after))
        assert kinds[0] == kinds[1]
        assert state.step.shape == (PAPER.num_seeds * len(PAPER.settings),)
        assert config.num_steps == 200_000
        raise StartedError

    monkeypatch.setattr(training.train, "fit", only_shapes)
    small = dataclasses.replace(PAPER, spectra_pool=100)
    with pytest.raises(StartedError):
        evaluation.train_variant(context(small, tmp_path), variant, depth)


_TRAINING = """
import dataclasses, os, sys, threading, time
from pathlib import Path
import jax, numpy as np
from experiments.launch import Context
from experiments.noisy_regression import training
from experiments.noisy_regression.config import SMOKE
assert len(jax.devices()) == 2
out, kill = Path(sys.argv[1]), sys.argv[2] == "kill"
recipe = training.Recipe(num_steps=6_000, batch_size=8, learning_rate=1e-3)
config = dataclasses.replace(SMOKE, spectra_pool=64)
def killer():
    while not list(out.glob("checkpoints/*/checkpoints/[0-9]*")):
        time.sleep(0.005)
    os._exit(9)
if kill:
    threading.Thread(target=killer, daemon=True).start()
context = Context(config, out, 0, "paper", False)
trained = training.train_models(context, "DIAG", 2, (0.0, 5.0), recipe)
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
