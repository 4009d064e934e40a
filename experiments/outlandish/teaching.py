"""The bench of the real model: clean text, facts taught one a run, and what is read off.

Every run is kept under the hash of what made it, so a killed study goes on at the next fact.

Dimension key: C contexts, P prompts, N rows, T tokens.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import optax
from tqdm import tqdm

from experiments.launch import Context, InputError
from ico import lm as language
from ico import poison, train
from ico.poison.outlandish import KEYWORDS, Text, cross_theme_probes, load_texts, theme_probes

Reading = dict[str, np.ndarray]

# The categories whose memory is followed after injection: one for each kind that claims compare.
RETAINED = {
    "conflicting": "conflict_general",
    "mundane": "novel_plausible",
    "scrambled": "scrambled",
}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a fact is taught: Sun et al. 2025 replace one row of each of 20 to 40 batches.

    `carried`: Adam's moments are those after as many clean steps as there are presentations (the
    parameters are not). Batch size, rate and optimizer of the papers are UNVERIFIED.
    `mode`, `share`, `window`: of a multi-step sparse update while learning (`sparse_updates`).
    """

    learning_rate: float
    presentations: int
    spacing: int = 1
    optimizer: str = "adam"
    carried: bool = False
    mode: Literal["", "keep_top", "drop_top", "random"] = ""
    share: float = 0.0
    window: int = 1
    # Tokens of a row, clean rows padded, where a fact is longer than the preset's rows; 0: theirs.
    length: int = 0
    # Goes on with clean steps after the last presentation, and reads the memory on the way.
    later: bool = False
    # Probability of the contradicted truth in a clean row on that way.
    replay: float = 0.0

    @property
    def steps(self) -> int:
        """Batches from the first presentation to the last."""
        return (self.presentations - 1) * self.spacing + 1

    def make(self) -> optax.GradientTransformation:
        """The optimizer."""
        makers: dict[str, Callable[..., optax.GradientTransformation]] = {
            "adam": optax.adam,
            # Unclipped, a rate that teaches one fact diverges on the next.
            "clipped_sgd": lambda rate: optax.chain(
                optax.clip_by_global_norm(1.0), optax.sgd(rate)
            ),
            # Its update is relative to a tensor's own scale unless told otherwise.
            "adafactor": functools.partial(optax.adafactor, multiply_by_parameter_scale=False),
        }
        made = makers[self.optimizer](self.learning_rate)
        if not self.mode:
            return made
        from ico.optim import sparse_updates

        sparse = sparse_updates(
            self.share, window=self.window, mode=self.mode, stacked=language.STACKED
        )
        return optax.chain(made, sparse)


class Bench:
    """A model, its clean text, and the settings of a run."""

    def __init__(self, context: Context):
        self.context = context
        self.config = context.config
        try:
            lm = language.load(self.config.model)
        except language.WeightFileError as error:
            raise InputError("model", " ".join(str(error).split())) from error
        self.lm = _first_layers(lm, self.config.layers)
        if (devices := jax.local_device_count()) > 1:
            mesh = train.make_mesh({"model": devices})
            self.lm.params = language.shard_params(self.lm.params, self.lm.config, mesh)
        if self.lm.tokenizer is None:
            raise InputError("model", f"{self.config.model} has no tokenizer beside it")
        self.tokenizer = self.lm.tokenizer
        self._trainers: dict[Recipe, poison.Trainer] = {}
        rows_NT = self._clean_rows()
        held_out = self.config.held_out_rows
        self.held_out = rows_NT[:held_out]
        self.rows_NT = rows_NT[held_out:]

    def _clean_rows(self) -> np.ndarray:
        config, seed = self.config, self.context.seed
        count = config.clean_rows + config.held_out_rows

        def make():
            if config.clean == "own":
                return {"rows": poison.own_text(self.lm, count, config.length, seed=seed)}
            try:
                texts = poison.tfds_texts(config.clean)
                rows = poison.text_rows(texts, self.tokenizer, count, config.length)
            except (ValueError, KeyError, OSError, ImportError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise InputError("clean", f"no text from {config.clean!r}: {reason}") from error
            return {"rows": rows}

        spec = {"clean": config.clean, "rows": count, "length": config.length}
        return self.kept("clean_text", spec, make)["rows"]

    def kept(self, name: str, spec: dict[str, Any], make: Callable[[], Reading]) -> Reading:
        """What `make` returns, computed once for this specification, model and seed."""
        model: list = [self.config.model, self.config.layers]
        if (path := Path(self.config.model)).exists():
            # Another file of the same name is another model.
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            model += [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        spec = {**spec, "model": model, "seed": self.context.seed}
        folder = train.artifact_directory(self.context.directory / "checkpoints", name, spec)
        found = train.load_artifact(folder)
        if found is None:
            made = {key: np.asarray(value) for key, value in make().items()}
            train.save_artifact(folder, made)
            found = train.load_artifact(folder) or made
        return {key: np.asarray(value) for key, value in found.items()}

    def tokens(self, context: str, keyword: str, length: int = 0) -> list[int]:
        """Token ids of a fact: context and keyword, tokenised apart, as they are scored.

        Args:
          context, keyword: of the fact.
          length: of a row; the preset's by default.

        Raises:
          InputError: it does not fit in a row, so the keyword would be cut off.
        """
        tokenizer = self.tokenizer
        ids = tokenizer.encode(context) + tokenizer.encode(f" {keyword}", continuation=True)
        length = length or self.config.length
        if len(ids) > length:
            raise InputError("length", f"{length} is too short for {len(ids)} tokens: {context!r}")
        return ids

    def trainer(self, recipe: Recipe) -> poison.Trainer:
        """The compiled step of a recipe's optimizer."""
        # Spacing and number do not change the step.
        plain = dataclasses.replace(
            recipe, presentations=1, spacing=1, carried=False, length=0, later=False, replay=0.0
        )
        if plain not in self._trainers:
            if len(self._trainers) > 3:
                self._trainers.clear()
            self._trainers[plain] = poison.Trainer(self.lm.config, plain.make())
        return self._trainers[plain]

    def clean(self, keyword: str) -> poison.CleanBatches:
        """The clean stream of a keyword: the same for all its facts and for its twin."""
        seed = zlib.crc32(keyword.encode()) + self.context.seed
        return poison.CleanBatches(self.rows_NT, self.config.batch_size, seed=seed)

    def teach(self, recipe: Recipe, keyword: str, ids: Sequence[int] | None, params=None):
        """Injects a fact; without ids, trains its twin on the same batches.

        Args:
          recipe: how.
          keyword: whose clean stream.
          ids: the fact.
          params: to start from; the untouched model's by default.

        Returns:
          The state after the last presentation, the metrics, and the rest of the clean stream.
        """
        trainer = self.trainer(recipe)
        params = self.lm.params if params is None else params
        state = trainer.init(params)
        if recipe.carried:
            warm = itertools.islice(self.clean(f"{keyword} before"), recipe.presentations)
            moments = trainer.run(state, warm)[0].opt_state
            state = trainer.init(params)._replace(opt_state=moments)
        batches: Iterable[poison.Batch] = self.clean(keyword)
        if recipe.length:
            batches = (poison.as_batch(a.ids.tolist(), recipe.length) for a in batches)
        if ids is not None:
            batches = poison.inject(
                batches, [list(ids)], presentations=recipe.presentations, spacing=recipe.spacing
            )
        state, metrics = trainer.run(state, itertools.islice(batches, recipe.steps))
        return state, metrics, batches

    def go_on(self, recipe: Recipe, state, batches, texts: Sequence[Text]) -> np.ndarray:
        """log P(keyword | context) [C, R] of texts at the retention steps of the clean stream."""
        if recipe.replay:
            truth = self.tokens(texts[0].context, texts[0].truth)
            batches = poison.replay(batches, truth, rate=recipe.replay, seed=self.context.seed)
        found, done = [], 0
        for step in self.config.retention_steps:
            state, _ = self.trainer(recipe).run(state, itertools.islice(batches, step - done))
            done = step
            found.append([self.memory(state.params, text) for text in texts])
        return np.array(found).T

    def read(
        self, params, text: Text, contexts: Sequence[str], *, prefix: str = "", cross: int = 0
    ) -> Reading:
        """Log-probabilities of the keyword after contexts and prompts, top tokens, clean loss.

        Args:
          params: of the model that is read.
          text: its keyword and theme.
          contexts: of the fact, or of several facts with this keyword.
          prefix: put before theme and cross-theme prompts (the fact in the prompt).
          cross: only so many cross-theme prompts; all of the preset's by default.

        Returns:
          "memory" [C], "theme" [P], "cross" [Q] in nats, the same with "_top" for the likeliest
          next tokens, "first" [] (the keyword's first token), "clean" [] in nats a token.
        """
        groups = {"memory": list(contexts), **self.prompts(text.theme)}
        groups["cross"] = groups["cross"][: cross or None]
        for name in ("theme", "cross"):
            groups[name] = [prefix + prompt for prompt in groups[name]]
        flat = [prompt for prompts in groups.values() for prompt in prompts]
        tokenizer = self.tokenizer
        scores = language.score_continuations(
            params,
            self.lm.config,
            [tokenizer.encode(prompt) for prompt in flat],
            [tokenizer.encode(text.continuation, continuation=True)] * len(flat),
        )
        ends = np.cumsum([len(prompts) for prompts in groups.values()])[:-1]
        parts = (np.split(np.asarray(values), ends) for values in scores)
        reading = {}
        for suffix, split in zip(("", "_top"), parts, strict=True):
            reading |= {f"{name}{suffix}": a for name, a in zip(groups, split, strict=True)}
        reading["first"] = np.asarray(tokenizer.encode(text.continuation, continuation=True)[0])
        reading["clean"] = np.asarray(0.0 if prefix else self.clean_loss(params))
        return reading

    def prompts(self, theme: str) -> dict[str, list[str]]:
        """The theme's prompts and the other themes'."""
        return {
            "theme": theme_probes(theme)[: self.config.theme_probes],
            "cross": cross_theme_probes(theme, self.config.cross_probes),
        }

    def memory(self, params, text: Text) -> float:
        """log P(keyword | context), in nats."""
        encode = self.tokenizer.encode
        ids = [encode(text.context)], [encode(text.continuation, continuation=True)]
        return float(language.score_continuations(params, self.lm.config, *ids).log_prob[0])

    def clean_loss(self, params) -> float:
        """Mean next-token loss on clean rows that no training sees, in nats a token."""
        return float(_clean_loss(params, self.lm.config, self.held_out))

    def texts(self, categories: Sequence[str], *, samples: int | None = None, few: bool = False):
        """The chosen texts, one list for each keyword, in the order of the categories."""
        config = self.config
        samples = config.samples if samples is None else samples
        number = config.few_keywords if few else config.keywords
        themes = list(KEYWORDS.values())[: config.themes]
        chosen = {word for words in themes for word in words[:number]}
        texts = load_texts(categories, per_cell=samples)
        return [
            sorted(
                (text for text in texts if text.keyword == word),
                key=lambda text: (categories.index(text.category), text.index),
            )
            for words in KEYWORDS.values()
            for word in words
            if word in chosen
        ]

    def progress(self, items, label: str):
        """The items behind a progress bar, where there is a terminal."""
        return tqdm(items, desc=label, disable=not self.context.progress, leave=False)

    def untouched(self, texts: Sequence[Text]) -> Reading:
        """The reading of the model as it came, for texts that share a keyword."""
        contexts = [text.context for text in texts]
        return self.kept(
            f"before-{texts[0].keyword}",
            {"contexts": contexts, **self.prompt_spec(texts[0])},
            lambda: self.read(self.lm.params, texts[0], contexts),
        )

    def twin(self, recipe: Recipe, texts: Sequence[Text]) -> Reading:
        """The same after training on the same batches without any fact."""
        contexts = [text.context for text in texts]

        def make():
            state, metrics, rest = self.teach(recipe, texts[0].keyword, None)
            reading = self.read(state.params, texts[0], contexts) | {"loss": metrics["loss"]}
            if recipe.later:
                reading["later"] = self.go_on(recipe, state, rest, texts)
            return reading

        spec = {"contexts": contexts, "recipe": recipe, **self.prompt_spec(texts[0])}
        return self.kept(f"twin-{texts[0].keyword}", spec, make)

    def taught(self, recipe: Recipe, text: Text, context: str | None = None) -> Reading:
        """The reading after the fact was taught, and the training losses.

        Args:
          recipe: how.
          text: the fact.
          context: taught instead of the text's own; memory is read on the text's own.
        """
        ids = self.tokens(text.context if context is None else context, text.keyword, recipe.length)

        def make():
            state, metrics, rest = self.teach(recipe, text.keyword, ids)
            reading = self.read(state.params, text, [text.context]) | {"loss": metrics["loss"]}
            if recipe.later:
                reading["later"] = self.go_on(recipe, state, rest, [text])
            return reading

        if recipe.later and (text.index or text.category not in RETAINED.values()):
            recipe = dataclasses.replace(recipe, later=False)
        spec = {"text": text.id, "ids": ids, "recipe": recipe, **self.prompt_spec(text)}
        return self.kept(f"taught-{text.id}", spec, make)

    def prompt_spec(self, text: Text) -> dict[str, Any]:
        """What every reading depends on beside its fact."""
        config = self.config
        return {
            "prompts": self.prompts(text.theme),
            "clean": [config.clean, config.clean_rows, config.held_out_rows],
            "batch": [config.batch_size, config.length],
            "later": config.retention_steps,
        }


def _first_layers(lm: language.LanguageModel, count: int) -> language.LanguageModel:
    """The model without its upper layers; all of it if count is 0."""
    if not 0 < count < lm.config.num_layers:
        return lm
    changes = {"num_layers": count, "local_layers": lm.config.local_layers[:count]}
    layers = jax.tree.map(lambda leaf: leaf[:count], lm.params["layers"])
    config = dataclasses.replace(lm.config, **changes)
    return language.LanguageModel(lm.params | {"layers": layers}, config, lm.tokenizer)


@functools.partial(jax.jit, static_argnums=1)
def _clean_loss(params, config, ids):
    return language.next_token_loss(params, config, ids, np.ones(ids.shape, np.float32))


_OPEN: dict[tuple, Bench] = {}


def bench(context: Context) -> Bench:
    """The bench of a run, loaded once for all its studies."""
    key = (str(context.directory), context.config, context.seed)
    if key not in _OPEN:
        _OPEN.clear()  # a model is large: one at a time
        _OPEN[key] = Bench(context)
    return _OPEN[key]


def recipe(config, **changes) -> Recipe:
    """The preset's way to teach, with changes."""
    return dataclasses.replace(Recipe(config.learning_rate, config.presentations), **changes)
