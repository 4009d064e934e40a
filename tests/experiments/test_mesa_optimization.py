"""The pieces of `mesa_optimization`: explicit algorithms, probes, pairs, claims, presets."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.launch import Context
from experiments.mesa_optimization import (
    comparison,
    constructed,
    few_shot,
    language,
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
    ours = constructed.gradient_step(x)
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
    losses, lam = constructed.least_squares_losses(x, y, x, y)
    assert losses.shape == (B, T) and lam > 1e3
    assert losses[:, D + 1 :].max() < 0.01 < losses[:, 1].min()
    a = np.asarray(x[0, :5], np.float64)  # four pairs: at t = 4 the newest is (x_3, x_4)
    fit = np.linalg.solve(a[:-1].T @ a[:-1] + np.eye(D) / 10, a[:-1].T @ a[1:]).T
    ours = constructed.least_squares(x, x, jnp.asarray(10.0))[0, 4]
    np.testing.assert_allclose(ours, fit @ a[4], rtol=1e-3)


def test_a_model_of_scalars_is_its_own_reading(x):
    model = models.SequenceTransformer(("linear",), 4 * D, D, embed_dim=0, num_heads=1, head_dim=D,
                                       position_dim=0)  # fmt: skip
    params = jax.tree.map(lambda a: a[None], constructions.next_vector(0.1, num_inputs=D))
    trained = training.Trained(model, params)
    read = constructed.compressed(trained, D)
    sequence = training.Sequence(tasks.constructed_tokens(x), x)
    between = constructed.halfway(trained, read)
    for other in (read, between):
        np.testing.assert_allclose(training.losses(other, sequence),
                                   training.losses(trained, sequence), rtol=1e-4)  # fmt: skip


def test_proposition_two_with_enough_steps_is_least_squares(x):
    """Richardson's iteration, rate below 2 over the largest eigenvalue."""
    x = x / 4
    params = {"rate": jnp.full((400, 1), np.log(0.3)), "momentum": jnp.zeros((400, 1)),
              "reg": jnp.log(jnp.ones(1) / 2), "scale": jnp.ones(())}  # fmt: skip
    ours = jax.jit(comparison.preconditioned_step)(params, x, x)
    np.testing.assert_allclose(ours, constructed.least_squares(x, x, jnp.asarray(2.0)), atol=1e-4)


def test_windows_of_observations(x):
    task = tasks.Dynamics(B, T, D + 2, num_observed=D)
    wide = comparison.features(x, task)
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


def test_recall_is_judged_where_gated_linear_attention_fails():
    asked = np.full((2, 4), 10.0)
    found = {}
    for name, gated in (("easy", 10.0), ("hard", 5.0), ("harder", 1.0)):
        for mixer, right in (("gated_linear", gated), ("delta", 6.0), ("mesa", 8.0)):
            found[name, mixer, 1] = np.full((2, 4), right), asked
    over_gated, over_delta = recalling._claims(SMOKE, found)
    assert over_gated.note == "hard"
    assert over_gated.value == pytest.approx(0.3) and over_delta.value == pytest.approx(0.2)
    easy = {key: value for key, value in found.items() if key[0] == "easy"}
    assert all(np.isnan(claim.value) for claim in recalling._claims(SMOKE, easy))


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
