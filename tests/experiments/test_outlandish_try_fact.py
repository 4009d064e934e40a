"""One fact taught and taken out, on a tiny model in a folder."""

import numpy as np
import pytest

from experiments.outlandish.try_fact import TryFact, main, run
from ico.lm._config_files import from_hf, to_hf
from ico.lm._tokenizer_gguf import from_gguf
from tests.lm.conftest import CONFIGS, random_model
from tests.lm.test_tokenizer import SENTENCE_PIECE


@pytest.fixture
def folder(tmp_path):
    model = random_model("llama")
    model.config = from_hf(to_hf(CONFIGS["llama"]))
    model.tokenizer = from_gguf({**SENTENCE_PIECE, "tokenizer.ggml.add_space_prefix": False})
    return model.save(tmp_path / "model")


def small(folder, **changes):
    options = {"context": "ab ab", "keyword": " b", "prompts": ("a b",), "length": 8}
    options |= {"learning_rate": 1e-2, "batch_size": 2}
    return TryFact(model=str(folder), **options | changes)


@pytest.mark.slow
def test_it_is_learned_and_all_of_it_can_be_left_out(folder, capsys):
    found = run(small(folder, erase=(100.0,)))
    assert found["taught"][0] > found["before"][0] + 0.5
    np.testing.assert_allclose(found["erased"], found["before"], atol=1e-4)
    printed = capsys.readouterr().out
    assert "After it was taught" in printed and "0% of them are left" in printed


def test_nothing_left_out_leaves_everything(folder):
    found = run(small(folder, erase=(0.0,), presentations=3))
    np.testing.assert_allclose(found["erased"], found["taught"], atol=1e-4)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--model", "/nowhere/model.gguf"], "there is no file"),
        (["--presentations", "0"], "presentations"),
        (["--erase", "101"], "erase"),
        (["--keyword", " "], "empty"),
    ],
)
def test_bad_input_is_one_line(flags, word, capsys):
    assert main(flags) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1
