"""Language models: loading published weights, scoring texts and sampling.

    lm = ico.lm.load("smollm2")
    lm.log_prob(["The capital of France is"], [" Paris"])
    lm.generate("The capital of France is", max_tokens=8)

`LanguageModel` is a thin class around pure functions, which take the parameters, a plain nested
dict, as their first argument. `ico.lm.families` holds what is special about each model family.
"""

from ico.lm._config import DecoderConfig
from ico.lm._decoder import (
    STACKED,
    Cache,
    check_ids,
    hidden_states,
    init_params,
    logits,
    param_shapes,
)
from ico.lm._errors import WeightFileError
from ico.lm._model import LanguageModel, load
from ico.lm._sample import generate_ids
from ico.lm._score import next_token_loss, score_continuations, token_log_probs
from ico.lm._sharding import param_shardings, shard_params
from ico.lm._tokenizer import Tokenizer

__all__ = [
    "STACKED",
    "Cache",
    "DecoderConfig",
    "LanguageModel",
    "Tokenizer",
    "WeightFileError",
    "check_ids",
    "generate_ids",
    "hidden_states",
    "init_params",
    "load",
    "logits",
    "next_token_loss",
    "param_shapes",
    "param_shardings",
    "score_continuations",
    "shard_params",
    "token_log_probs",
]
