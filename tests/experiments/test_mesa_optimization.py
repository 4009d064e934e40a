"""The pieces of `mesa_optimization`: explicit algorithms, probes, pairs, claims, presets."""

import dataclasses
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.launch import Context
from experiments.mesa_optimization import (
    comparison,
    constructed,
    explicit,
    few_shot,
    language,
    linearisation,
    probing,
    training,
)
from experiments.mesa_optimization import recall as recalling
from experiments.mesa_optimization.config import EXPERIMENT, PAPER, SMOKE
from ico import models, tasks
from ico.algorithms import constructions

CPU = EXPERIMENT.presets["cpu"]
B, T, D = 3, 12, 4


def context(config, folder):
    return Context(config, folder, 0, "smoke", False)


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (B, T, D))


def test_one_gradient_step(x):
    ours = explicit.gradient_step(x)
    for b, t in np.ndindex(B, T):
        w = sum((np.outer(x[b, s], x[b, s - 1]) for s in range(1, t + 1)), np.zeros((D, D)))
        np.testing.assert_allclose(ours[b, t], w @ x[b, t], rtol=1e-4, atol=1e-4)


def test_least_squares_counts_the_newest_pair_and_finds_its_regulariser(x):
    w = np.linalg.qr(np.random.default_rng(0).normal(size=(D, D)))[0]
    late = [np.asarray(x)[:, 0]]
    for _ in range(T):
        late.append(late[-1] @ w.T)
    exact = jnp.asarray(np.stack(late, 1), jnp.float32)
    x, y = exact[:, :-1], exact[:, 1:]
    losses, lam = explicit.least_squares_losses(x, y, x, y)
    assert losses.shape == (B, T) and lam > 1e3
    assert losses[:, D + 1 :].max() < 0.01 < losses[:, 1].min()
    a = np.asarray(x[0, :5], np.float64)  # four pairs: at t = 4 the newest is (x_3, x_4)
    fit = np.linalg.solve(a[:-1].T @ a[:-1] + np.eye(D) / 10, a[:-1].T @ a[1:]).T
    ours = explicit.least_squares(x, x, [1.0, 10.0])[1, 0, 4]
    np.testing.assert_allclose(ours, fit @ a[4], rtol=1e-12)


def test_a_model_of_scalars_is_its_own_reading(x):
    model = models.SequenceTransformer(("linear",), 4 * D, D, embed_dim=0, num_heads=1, head_dim=D,
                                       position_dim=0)  # fmt: skip
    params = jax.tree.map(lambda a: a[None], constructions.next_vector(0.1, num_inputs=D))
    trained = training.Trained(model, params)
    sequence = training.Sequence(tasks.constructed_tokens(x), x)
    read = constructed.compressed(trained, D)
    np.testing.assert_allclose(training.losses(read, sequence),
                               training.losses(trained, sequence), rtol=1e-4)  # fmt: skip


def test_a_gradient_step_in_the_terms_of_any_layer(x):
    """Whatever the weights: it is that step; and halfway lies between, product by product."""
    rng = np.random.default_rng(0)
    scalars = {"block_0": {name: jnp.asarray(rng.normal(size=(1, 2, 4, 4)), jnp.float32)
                           for name in ("kq", "pv")}}  # fmt: skip
    params = jax.vmap(lambda s: models.from_block_scalars(s, D))(scalars)
    model = models.SequenceTransformer(("linear",), 4 * D, D, embed_dim=0, num_heads=2,
                                       head_dim=4 * D, position_dim=0)  # fmt: skip
    trained = training.Trained(model, params)
    step = constructed.gradient_step_weights(trained, 0.3, D)
    sequence = training.Sequence(tasks.constructed_tokens(x), x)
    error = 0.3 * explicit.gradient_step(x) - x
    np.testing.assert_allclose(
        training.losses(step, sequence)[0], 0.5 * jnp.sum(error**2, -1), rtol=1e-3, atol=1e-5
    )
    middle = constructed.halfway(trained, step)
    for ours, a, b in zip(*(models.products(training.one(m, 0)["block_0"])
                            for m in (middle, trained, step)), strict=True):  # fmt: skip
        np.testing.assert_allclose(ours, (a + b) / 2, atol=1e-4)


def test_proposition_two_with_enough_steps_is_least_squares(x):
    """Richardson's iteration, rate below 2 over the largest eigenvalue."""
    x = x / 4
    params = {"rate": jnp.full((400, 1), np.log(0.3)), "momentum": jnp.zeros((400, 1)),
              "reg": jnp.log(jnp.ones(1) / 2), "scale": jnp.ones(())}  # fmt: skip
    ours = jax.jit(explicit.preconditioned_step)(params, x, x)
    np.testing.assert_allclose(ours, explicit.least_squares(x, x, [2.0])[0], atol=1e-4)


def test_proposition_two_starts_below_one_gradient_step():
    """Coefficients known in advance help on sequences that they were not chosen on."""
    task = tasks.Dynamics(200, 20, D)
    other, test = (training.draw(jax.random.key(i), task, False) for i in (1, 2))
    start = explicit.known_in_advance(task, other, 5)
    start = training.Trained(None, jax.tree.map(lambda leaf: leaf[None], start))
    ours = explicit.proposition_losses(start, task, test).mean()
    one = explicit.gradient_descent_losses(
        *(s._replace(inputs=tasks.constructed_tokens(s.inputs)) for s in (test, other)), D
    )[0].mean()
    best = explicit.least_squares_losses(test.inputs, test.targets, other.inputs, other.targets)[0]
    assert best.mean() < ours < 0.8 * one


def test_windows_of_observations(x):
    task = tasks.Dynamics(B, T, D + 2, num_observed=D)
    wide = explicit.features(x, task)
    assert wide.shape == (B, T, 8 * D)
    np.testing.assert_array_equal(wide[:, 5, D : 2 * D], x[:, 4])
    np.testing.assert_array_equal(wide[:, 1, 2 * D : 3 * D], 0)


def test_probes_are_judged_on_other_sequences(x):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 500, 3))
    weights = rng.normal(size=(3, 2))
    read = probing.predict(b, probing.fit(a, a @ weights + 1.5))
    np.testing.assert_allclose(read, b @ weights + 1.5, atol=1e-3)
    before, after = rng.normal(size=(2, 2, 50, 4, 3))  # [L + 1, B, T, E]
    y = [side[1] @ weights for side in (before, after)]
    errors = probing._probe(before, after, *y, [1, 2])
    assert errors.shape == (2, 50) and errors[1].max() < 1e-4 < errors[0].mean()
    # As many weights as sequences fit anything that they were fitted on, and nothing else.
    before, after = rng.normal(size=(2, 1, 8, 1, 9))
    y = rng.normal(size=(2, 8, 1, 2))
    assert probing._probe(before, before, y[0], y[0], [0]).max() < 1e-3
    assert probing._probe(before, after, *y, [0]).mean() > 0.5
    ours = probing.preconditioned(x)[0, 6]
    past = np.asarray(x[0, :6], np.float64)
    np.testing.assert_allclose(
        ours, np.linalg.solve(past.T @ past + 1e-3 * np.eye(D), x[0, 6]), rtol=2e-2
    )


def test_scores_of_the_first_layer_explain_it(x):
    model = models.SequenceTransformer(("softmax",), D, D, embed_dim=6, num_heads=2, head_dim=3,
                                       position_dim=4, init_std=0.7)  # fmt: skip
    params = model.init(jax.random.key(1), x)["params"]
    scores = probing.first_scores(model, params, x)
    np.testing.assert_allclose(scores.sum(-1), 1, rtol=1e-5)
    before, after = probing.hidden(model, params, x)
    w = params["block_0"]["attention"]
    update = jnp.einsum("bhts,bse,hea,haf->btf", scores, before, w["value"], w["out"])
    np.testing.assert_allclose(after - before, update, rtol=1e-3, atol=1e-4)


def test_pairs_in_a_row():
    pairs = few_shot.draw(jax.random.key(0), 2, 5, D)
    eos, prefix = jnp.full(D, 7.0), jnp.full((3, D), 8.0)
    tokens, places = few_shot.tokens_of(pairs, eos, prefix)
    assert tokens.shape == (2, 3 + 15, D)
    np.testing.assert_array_equal(tokens[:, places], pairs.x)
    np.testing.assert_array_equal(tokens[:, places + 1], pairs.y)
    np.testing.assert_array_equal(tokens[:, places + 2], jnp.broadcast_to(eos, (2, 5, D)))
    plain, places = few_shot.tokens_of(pairs)
    assert plain.shape == (2, 10, D)
    np.testing.assert_array_equal(plain[:, places], pairs.x)
    w = np.linalg.lstsq(pairs.x[0], pairs.y[0], rcond=None)[0]
    assert np.abs(w @ w.T - np.eye(D)).max() < 0.2
    losses = few_shot._regression(pairs, few_shot.draw(jax.random.key(1), 50, 5, D))
    assert losses.shape == (2, 5) and losses[:, -1].max() < losses[:, 0].min()


def test_rows_of_text_go_on_where_the_last_one_ended():
    class Letters:
        def encode(self, text):
            return dataclasses.make_dataclass("Ids", ["ids"])([ord(c) for c in text])

    rows = language.rows_of(["abcde", "fgh"], Letters(), 4)
    assert ["".join(map(chr, row)) for row in rows] == ["abcde", "e\nfgh"]


def test_recall_is_judged_where_gated_linear_attention_fails_elsewhere():
    asked = np.full((2, 4), 10.0)
    found, elsewhere = {}, {}
    # On the sequences of the test it fails the first task, too, by luck.
    # Nothing was learned on the second.
    rows = (("easy", 8.0, 1.0, 1.0), ("dead", 0.6, 0.06, 0.06), ("hard", 5.0, 0.5, 0.95),
            ("harder", 1.0, 0.1, 1.0))  # fmt: skip
    for name, gated, other, learned in rows:
        elsewhere[name, "gated_linear"], elsewhere[name, "softmax"] = other, learned
        for mixer, right in (("gated_linear", gated), ("delta", 6.0), ("mesa", 8.0)):
            found[name, mixer, 1] = np.full((2, 4), right), asked
    over_gated, over_delta = recalling._claims(CPU, found, elsewhere)
    assert over_gated.note == "hard"
    assert over_gated.value == pytest.approx(0.3) and over_delta.value == pytest.approx(0.2)
    easy = {("easy", "gated_linear"): 1.0}
    assert all(np.isnan(claim.value) for claim in recalling._claims(CPU, found, easy))


def test_names_of_layers_are_those_of_the_models():
    """config.py names them itself, for it imports no jax."""
    kinds = get_args(models.MixerKind)
    dataclasses.replace(CPU, recall_mixers=kinds).validate()
    assert set(PAPER.recall_mixers) <= set(kinds)


def test_pages_of_text_are_kept_apart():
    class Letters:
        def encode(self, text):
            return dataclasses.make_dataclass("Ids", ["ids"])([ord(c) for c in text])

    rows, page = language.pages_of(["abcdefghi", "x", "mnopq"], Letters(), 4, 99)
    assert ["".join(map(chr, row)) for row in rows] == ["abcde", "efghi", "mnopq"]
    np.testing.assert_array_equal(page, [0, 0, 2])
    losses = np.arange(24.0).reshape(2, 3, 4)
    sums, counts = language.by_page(losses, page)
    np.testing.assert_array_equal(sums, [[28, 38], [124, 86]])
    np.testing.assert_array_equal(counts, [[8, 4], [8, 4]])


def test_no_page_is_trained_on_and_held_out():
    train, held = language.corpus(dataclasses.replace(SMOKE, text="pydoc_topics"))
    assert not set(train) & set(held) and 8 < len(train) / len(held) < 10


def with_weights(heads: int):
    """A model of one softmax layer whose first head copies the token before, by hand."""
    model = models.SequenceTransformer(("softmax",), D, D, embed_dim=3 * D, num_heads=heads,
                                       head_dim=2, position_dim=2)  # fmt: skip
    params = model.init(jax.random.key(0), jnp.zeros((1, T, D)))["params"]
    weights = {name: jnp.zeros_like(leaf) for name, leaf in params["block_0"]["attention"].items()}
    return model, {**params, "block_0": {"attention": weights}}


def test_copying_heads_are_found_on_other_sequences(x):
    model, params = with_weights(2)
    attention = params["block_0"]["attention"]
    # The code is (sin t, cos t): turned by one position, scores are 300 cos(t - 1 - s).
    turn = jnp.asarray([[np.cos(1), np.sin(1)], [-np.sin(1), np.cos(1)]], jnp.float32)
    attention["query"] = attention["query"].at[1, 3 * D :].set(300 * turn)
    attention["key"] = attention["key"].at[1, 3 * D :].set(jnp.eye(2))
    data = training.Sequence(x[:, :6], x[:, :6])
    copies = probing._copying(model, params, data, data)
    np.testing.assert_allclose(copies, 1, atol=1e-3)
    uniform = with_weights(2)[1]
    mean = np.mean([1 / (t + 1) for t in range(1, 6)])
    np.testing.assert_allclose(probing._copying(model, uniform, data, data), mean, rtol=1e-5)


def test_what_stands_in_a_token_is_read_by_lag():
    """Untouched tokens hold the present vector, and of vectors without memory nothing else."""
    model, params = with_weights(1)
    fitted, test = (training.Sequence(*[jax.random.normal(jax.random.key(i), (400, T, D))] * 2)
                    for i in (1, 2))  # fmt: skip
    error, total = probing._by_lag(model, params, fitted, test)
    unexplained = error.mean(1) / total.mean(1)
    assert unexplained[0] < 1e-3 and (unexplained[1:] > 0.9).all()


@pytest.mark.slow
def test_tuned_tokens_leave_the_model_as_it_was(tmp_path):
    here = context(SMOKE, tmp_path)
    trained = comparison.train_full(here, "softmax, mesa", length=50)
    before = jax.tree.map(np.array, trained.params)
    tuned = few_shot.tune(here, "eos", trained, True)
    assert tuned.params["prefix"].shape == (2, 20, 4) and tuned.params["eos"].shape == (2, 4)
    start = {"eos", "prefix"}
    assert set(tuned.params) == start
    jax.tree.map(np.testing.assert_array_equal, trained.params, before)
    saved = training.train.load_artifact(next((tmp_path / "checkpoints").glob("tokens-eos-*")))
    jax.tree.map(np.testing.assert_array_equal, saved["frozen"], before)


@pytest.mark.slow
def test_replaced_layers_are_fitted_one_by_one(tmp_path):
    """Only the layer in question is another; a linear layer fitted to a linear one is that one."""
    here = context(dataclasses.replace(SMOKE, linear_fit_steps=400, batch_size=16), tmp_path)
    model = linearisation._model(here.config, 4).clone(kinds=("linear", "linear"))
    task = tasks.Dynamics(16, 16, 4)
    trained = training.train_on_dynamics(here, "m", model, task, training.Recipe(2, 16, 1e-3))
    strong = jax.tree.map(lambda leaf: 3 * leaf, trained.params)
    trained = trained._replace(params=strong)
    replaced = linearisation._replace(here, trained, task, 4, 1)
    assert replaced.model.kinds == ("linear", "linear")
    jax.tree.map(np.testing.assert_array_equal, replaced.params["block_0"], strong["block_0"])
    test = training.draw(jax.random.key(9), training.sized(task, 64), False)
    assert 0 < linearisation._not_fitted(trained, replaced, test, 1) < 0.7
    assert linearisation._not_fitted(trained, trained, test, 1) == 0


def test_scalars_start_from_what_is_read_off(tmp_path):
    """And move: two steps of training change them, and are found again."""
    here = context(SMOKE, tmp_path)
    trained = constructed.train_constructed(here, "linear", 2)
    moved = constructed.train_scalars(here, trained, 2)
    read = constructed.compressed(trained, SMOKE.dim)
    gap = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), moved.params, read.params)
    assert 0 < max(jax.tree.leaves(gap)) < 0.01
    again = constructed.train_scalars(here, trained, 2)
    jax.tree.map(np.testing.assert_array_equal, again.params, moved.params)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"dim": 5}, "dim"),
        ({"depths": (2, 1)}, "depths"),
        ({"text": "novel"}, "text"),
        ({"full_models": ("quick",)}, "full_models"),
        ({"systems": ("chaotic",)}, "systems"),
        ({"recall_lengths": (2,)}, "recall_lengths"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"recall_mixers": ("quick",)}, "recall_mixers"),
        ({"text_models": ("quick",)}, "text_models"),
        ({"probe_positions": (50,)}, "probe_positions"),
        ({"text_learning_rate": float("nan")}, "text_learning_rate"),
    ],
)
def test_settings_that_make_no_sense(changes, word):
    with pytest.raises(ValueError, match=word):
        dataclasses.replace(CPU, **changes).validate()


class StartedError(Exception):
    """Raised in place of training."""


@pytest.mark.parametrize("what", ["constructed", "full", "few-shot"])
def test_paper_preset_starts(what, tmp_path, monkeypatch):
    """Its first step has the right shapes, at its full sizes."""

    def only_shapes(step, state, data, config, **_):
        def once(state):
            return step(state, data(jax.random.fold_in(state.key, state.step)))

        after, _ = jax.eval_shape(jax.vmap(once), state)
        kinds = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (state, after))
        assert kinds[0] == kinds[1] and state.step.shape == (PAPER.num_seeds,)
        raise StartedError

    monkeypatch.setattr(training.train, "fit", only_shapes)
    here = context(PAPER, tmp_path)
    with pytest.raises(StartedError):
        if what == "constructed":
            constructed.train_constructed(here, "linear", 6)
        elif what == "full":
            comparison.train_full(here, "softmax, mesa", "nonlinear")
        else:
            comparison.train_full(here, "softmax, linear", length=224)
