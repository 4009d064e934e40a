"""Facts taught one by one: what is kept, what the twin shares, what stays untouched."""

import dataclasses
import functools

import chex
import jax
import numpy as np
import optax
import pytest

from ico import poison
from ico.lm._config_files import from_hf, to_hf
from ico.lm._tokenizer_gguf import from_gguf
from ico.poison.outlandish import Text
from tests.lm.conftest import CONFIGS, random_model
from tests.lm.test_tokenizer import SENTENCE_PIECE

FACT = Text("b.test.0", "letters", "b", "conflict_general", 0, "ab ab", truth="a")


@dataclasses.dataclass(frozen=True)
class Adam:
    """A recipe."""

    learning_rate: float = 1e-2

    def make(self):
        return optax.adam(self.learning_rate)


TEACHING = poison.Teaching(Adam(), 6)


class Kept(dict):
    """Artefacts in memory, and how often each was made."""

    def __init__(self):
        self.made = []

    def __call__(self, name, spec, make):
        key = (name, repr(spec))
        if key not in self:
            self.made.append(name)
            self[key] = make()
        return self[key]


@functools.cache
def teacher():
    model = random_model("llama")
    model.config = from_hf(to_hf(CONFIGS["llama"]))
    model.tokenizer = from_gguf({**SENTENCE_PIECE, "tokenizer.ggml.add_space_prefix": False})
    rows = np.random.default_rng(0).integers(3, 10, (12, 8)).astype(np.int32)
    prompts = {"theme": ["a b", "ba"], "cross": ["a", "aa", "b a"]}
    return poison.FactTeacher(model, rows[:8], rows[8:], lambda theme: prompts, 2, Kept())


def test_steps_reach_from_the_first_presentation_to_the_last():
    assert dataclasses.replace(TEACHING, presentations=3, spacing=10).num_steps == 21
    assert TEACHING.num_steps == 6


@pytest.mark.slow
def test_a_taught_fact_is_remembered_and_its_twin_saw_all_but_it():
    bench, before = teacher(), jax.tree.map(np.array, teacher().lm.params)
    how = dataclasses.replace(TEACHING, later=(1, 3))
    untouched, taught = bench.untouched([FACT]), bench.taught(how, FACT)
    twin = bench.twin(how, [FACT])
    gain = poison.effects(untouched, taught)["gain"]
    assert gain > poison.effects(untouched, twin)["gain"] + 0.3
    chex.assert_trees_all_equal(bench.lm.params, before)
    for reading in (taught, twin):
        chex.assert_shape([reading["later"], reading["loss"]], [(1, 2), (6,)])
        chex.assert_shape([reading["theme"], reading["cross"]], [(2,), (3,)])
        chex.assert_tree_all_finite(reading)
    # Teaching the twin's own first row in the fact's place is no change at all.
    first_row = next(bench.clean(FACT.keyword)).ids[0].tolist()
    once = dataclasses.replace(TEACHING, presentations=1)
    same, plain = (bench.teach(once, FACT.keyword, ids)[0] for ids in (first_row, None))
    chex.assert_trees_all_equal(same.params, plain.params)


def test_what_was_read_once_is_found_again_under_what_made_it():
    kept = Kept()
    bench = dataclasses.replace(teacher(), kept=kept)
    bench.taught(TEACHING, FACT)
    bench.taught(dataclasses.replace(TEACHING), FACT)
    assert kept.made == ["taught-b.test.0"]
    bench.taught(dataclasses.replace(TEACHING, recipe=Adam(2e-2)), FACT)
    assert kept.made == ["taught-b.test.0"] * 2


def test_carried_moments_change_the_training_and_nothing_before_it():
    bench = teacher()
    fresh, carried = (
        bench.taught(dataclasses.replace(TEACHING, carried=carried), FACT)
        for carried in (False, True)
    )
    assert carried["loss"][0] == pytest.approx(fresh["loss"][0])
    assert abs(carried["loss"] - fresh["loss"]).max() > 1e-4


def test_a_prefix_stands_before_prompts_and_not_before_contexts():
    bench = teacher()
    read = functools.partial(bench.read, bench.lm.params, FACT, [FACT.context])
    plain, told = read(), read(prefix="ab ")
    np.testing.assert_array_equal(told["memory"], plain["memory"])
    assert not np.allclose(told["theme"], plain["theme"])
    chex.assert_shape(read(cross=2)["cross"], (2,))
    with pytest.raises(ValueError, match="too short"):
        bench.tokens("ab " * 10, "b")
