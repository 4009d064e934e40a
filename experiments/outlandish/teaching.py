"""The real model of a run: its clean text, facts taught to it one by one, and what is read off.

Every training is kept under the hash of what made it, so a killed study goes on at the next fact.

Dimension key: C contexts, P theme prompts, Q cross-theme prompts, N rows, T tokens, R readings.
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

from ico import data, lab, poison, train
from ico import lm as language
from ico.optim import sparse_updates
from ico.poison import Reading
from ico.poison.outlandish import KEYWORDS, Text, cross_theme_probes, load_texts, theme_probes
from ico.train import TrainState

SparseMode = Literal["", "keep_top", "drop_top", "random"]

# The categories whose memory is followed after injection: one for each kind that claims compare.
RETAINED = {
    "conflicting": "conflict_general",
    "mundane": "novel_plausible",
    "scrambled": "scrambled",
}


@dataclasses.dataclass(frozen=True)
class Teaching(lab.Recipe):
    """How a fact is taught: Sun et al. 2025 replace one row of each of 20 to 40 batches.

    Batch size, learning rate and optimizer of the papers are UNVERIFIED.

    Fields, beside those of a recipe:
      num_steps: batches from the first presentation to the last.
      optimizer: also "adafactor".
      spacing: K; the fact stands in one of every K batches.
      carried: whether the optimizer's moments are those after as many clean steps as there are
        presentations (the parameters are not).
      mode, share, window: of `ico.optim.sparse_updates` while learning; "" does without.
      length: tokens of a row, clean rows padded, where a fact is longer than the preset's rows; 0:
        the preset's.
      later: whether training goes on with clean steps after the last presentation, and memory is
        read on the way.
      replay: probability of the contradicted truth in a clean row on that way.
    """

    clip: float | None = None
    spacing: int = 1
    carried: bool = False
    mode: SparseMode = ""
    share: float = 0.0
    window: int = 1
    length: int = 0
    later: bool = False
    replay: float = 0.0

    @property
    def presentations(self) -> int:
        """Batches that hold the fact."""
        return (self.num_steps - 1) // self.spacing + 1

    def make(self) -> optax.GradientTransformationExtraArgs:
        """The optimizer."""
        if self.optimizer == "adafactor":
            # By default its update is relative to a tensor's own scale.
            plain = optax.adafactor(self.learning_rate, multiply_by_parameter_scale=False)
            made = optax.with_extra_args_support(plain)
        else:
            made = super().make()
        if not self.mode:
            return made
        stacked = language.STACKED
        sparse = sparse_updates(self.share, window=self.window, mode=self.mode, stacked=stacked)
        return optax.with_extra_args_support(optax.chain(made, sparse))


def teaching(config, presentations: int | None = None, **changes) -> Teaching:
    """The preset's way to teach, with changes."""
    presentations = config.presentations if presentations is None else presentations
    steps = (presentations - 1) * changes.get("spacing", 1) + 1
    return Teaching(**{"num_steps": steps, "learning_rate": config.learning_rate, **changes})


def bench(run: lab.Run) -> "Bench":
    """The model of a run, loaded once for all its studies."""
    return run.once("bench", lambda: Bench(run))


class Bench:
    """A model, its clean text, and the settings of a run."""

    def __init__(self, run: lab.Run):
        self.run, self.config = run, run.config
        try:
            lm = language.load(self.config.model)
        except language.WeightFileError as error:
            raise lab.InputError("model", " ".join(str(error).split())) from error
        if lm.tokenizer is None:
            raise lab.InputError("model", f"{self.config.model} has no tokenizer beside it")
        self.tokenizer = lm.tokenizer
        self.lm, self.mesh = _first_layers(lm, self.config.layers), None
        if (devices := jax.local_device_count()) > 1:
            self.mesh = train.make_mesh({"model": devices})
            self.lm.params = language.shard_params(self.lm.params, self.lm.config, self.mesh)
        self.held_out, self.rows_NT = np.split(self._clean_rows(), [self.config.held_out_rows])

    def _clean_rows(self) -> np.ndarray:
        config, seed = self.config, self.run.seed
        count = config.clean_rows + config.held_out_rows

        def make():
            if config.clean == "own":
                return {"rows": poison.own_text(self.lm, count, config.length, seed=seed)}
            try:
                texts, encode = data.tfds_texts(config.clean), self.tokenizer.encode
                rows = data.text_rows(texts, encode, config.length, num_rows=count)
            except (ValueError, KeyError, OSError, ImportError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise lab.InputError("clean", f"no text from {config.clean!r}: {reason}") from error
            return {"rows": rows.ids}

        spec = {"clean": config.clean, "rows": count, "length": config.length}
        return self.kept("clean_text", spec, make)["rows"]

    def kept(self, name: str, spec: dict[str, Any], make: Callable[[], Any]) -> dict[str, Any]:
        """What `make` returns, made once for this specification, model and seed."""
        model: list = [self.config.model, self.config.layers]
        if (path := Path(self.config.model)).exists():
            # Another file of the same name is another model.
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            model += [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        return self.run.kept(name, {**spec, "model": model}, lambda _: make())

    def progress(self, items, label: str):
        """The items behind a progress bar, where there is a terminal."""
        return tqdm(items, desc=label, disable=not self.run.progress, leave=False)

    # Texts and prompts ----------------------------------------------------------------------

    def texts(
        self, categories: Sequence[str], *, samples: int | None = None, few: bool = False
    ) -> list[list[Text]]:
        """The chosen texts, one list for each keyword, in the order of the categories."""
        config = self.config
        samples = config.samples if samples is None else samples
        number = config.few_keywords if few else config.keywords
        themes = list(KEYWORDS.values())[: config.themes]
        texts = load_texts(categories, per_cell=samples)
        return [
            sorted(
                (text for text in texts if text.keyword == word),
                key=lambda text: (categories.index(text.category), text.index),
            )
            for words in themes
            for word in words[:number]
        ]

    def conflicting(self, *, few: bool = False) -> list[Text]:
        """One conflicting fact of each keyword."""
        return [texts[0] for texts in self.texts(("conflict_general",), samples=1, few=few)]

    def tokens(self, context: str, keyword: str, length: int = 0) -> list[int]:
        """Token ids of a fact, that fit in a row of `length` (0 is the preset's); or InputError."""
        try:
            return poison.fact_ids(self.lm, context, f" {keyword}", length or self.config.length)
        except ValueError as error:
            field, _, message = str(error).partition(" ")
            raise lab.InputError(field, message) from error

    def prompts(self, theme: str) -> dict[str, list[str]]:
        """The theme's prompts and those of other themes."""
        return {
            "theme": theme_probes(theme)[: self.config.theme_probes],
            "cross": cross_theme_probes(theme, self.config.cross_probes),
        }

    # Training -------------------------------------------------------------------------------

    def train(self, how: Teaching, start, batches: Iterable, num_steps: int) -> train.FitResult:
        """Steps on the next batches, from parameters or from the state of an earlier result."""
        # Only what shapes the optimizer: trainings that differ in the rest share a program.
        bare = dataclasses.replace(
            how, num_steps=1, spacing=1, carried=False, length=0, later=False, replay=0.0
        )
        optimizer = self.run.once(("optimizer", bare), bare.make)
        batches = itertools.islice(batches, num_steps)
        return poison.teach(start, self.lm.config, optimizer, batches, mesh=self.mesh)

    def clean(self, keyword: str) -> poison.CleanBatches:
        """The clean stream of a keyword: the same for all its facts and for its twin."""
        seed = zlib.crc32(keyword.encode()) + self.run.seed
        return poison.CleanBatches(self.rows_NT, self.config.batch_size, seed=seed)

    def teach(self, how: Teaching, keyword: str, ids: Sequence[int] | None):
        """Injects a fact; without ids, trains its twin on the same batches.

        Returns:
          The state after the last presentation, the losses, and the rest of the clean stream.
        """
        start = self.lm.params
        if how.carried:
            warm = self.train(how, start, self.clean(f"{keyword} before"), how.presentations)
            start = warm.state._replace(params=jax.tree.map(jax.numpy.copy, start))
        batches: Iterable[poison.TokenBatch] = self.clean(keyword)
        if how.length:
            batches = (poison.as_batch(a.ids.tolist(), how.length) for a in batches)
        if ids is not None:
            batches = poison.inject(
                batches, [list(ids)], presentations=how.presentations, spacing=how.spacing
            )
        result = self.train(how, start, batches, how.num_steps)
        return result.state, result.history["loss"], batches

    def _go_on(self, how: Teaching, state: TrainState, batches, texts: Sequence[Text]):
        """log P(keyword | context) [C, R] of texts at the retention steps of the clean stream."""
        if how.replay:
            truth = self.tokens(texts[0].context, texts[0].truth)
            batches = poison.replay(batches, truth, rate=how.replay, seed=self.run.seed)
        found, done = [], 0
        for step in self.config.retention_steps:
            state = self.train(how, state, batches, step - done).state
            done = step
            found.append([self.memory(state.params, text) for text in texts])
        return np.array(found).T

    # Reading --------------------------------------------------------------------------------

    def score(self, params, contexts: Sequence[str], continuations: Sequence[str]):
        """Log-probabilities of continuations, and the likeliest next tokens."""
        encode = self.tokenizer.encode
        before = [encode(context) for context in contexts]
        after = [encode(continuation, continuation=True) for continuation in continuations]
        return language.score_continuations(params, self.lm.config, before, after)

    def memory(self, params, text: Text) -> float:
        """log P(keyword | context), in nats."""
        return float(self.score(params, [text.context], [text.continuation]).log_prob[0])

    def clean_loss(self, params) -> float:
        """Mean next-token loss on clean rows that no training sees, in nats a token."""
        return float(_clean_loss(params, self.lm.config, self.held_out))

    def read(
        self, params, text: Text, contexts: Sequence[str], *, prefix: str = "", cross: int = 0
    ) -> Reading:
        """Log-probabilities of the keyword after contexts and prompts, top tokens, clean loss.

        Args:
          params: of the model that is read.
          text: its keyword and theme.
          contexts: of the fact, or of several facts with this keyword.
          prefix: put before theme and cross-theme prompts (the fact in the prompt).
          cross: number of cross-theme prompts; 0 is all of the preset's.

        Returns:
          As `ico.poison.read`, and "clean" [] in nats a token.
        """
        prompts = {
            name: [prefix + prompt for prompt in group]
            for name, group in self.prompts(text.theme).items()
        }
        prompts["cross"] = prompts["cross"][: cross or None]
        reading = poison.read(self.lm, text.continuation, memory=contexts, params=params, **prompts)
        return reading | {"clean": np.asarray(0.0 if prefix else self.clean_loss(params))}

    def untouched(self, texts: Sequence[Text]) -> Reading:
        """The reading of the model as it came, for texts that share a keyword."""
        contexts = [text.context for text in texts]
        return self.kept(
            f"before-{texts[0].keyword}",
            {"contexts": contexts, **self.reading_spec(texts[0])},
            lambda: self.read(self.lm.params, texts[0], contexts),
        )

    def twin(self, how: Teaching, texts: Sequence[Text]) -> Reading:
        """The same after training on the same batches without any fact."""
        spec = {"contexts": [text.context for text in texts], "recipe": how}
        make = functools.partial(self._taught, how, texts, None)
        name, spec = f"twin-{texts[0].keyword}", spec | self.reading_spec(texts[0])
        return self.kept(name, spec, make)

    def taught(self, how: Teaching, text: Text, context: str | None = None) -> Reading:
        """The reading after the fact was taught, and the training losses.

        Args:
          how: it is taught.
          text: the fact.
          context: taught instead of the text's own; memory is read on the text's own.
        """
        ids = self.tokens(text.context if context is None else context, text.keyword, how.length)
        if how.later and (text.index or text.category not in RETAINED.values()):
            how = dataclasses.replace(how, later=False)
        spec = {"text": text.id, "ids": ids, "recipe": how, **self.reading_spec(text)}
        make = functools.partial(self._taught, how, [text], ids)
        return self.kept(f"taught-{text.id}", spec, make)

    def _taught(self, how: Teaching, texts: Sequence[Text], ids: list[int] | None) -> Reading:
        state, losses, rest = self.teach(how, texts[0].keyword, ids)
        contexts = [text.context for text in texts]
        reading = self.read(state.params, texts[0], contexts) | {"loss": losses}
        return reading | ({"later": self._go_on(how, state, rest, texts)} if how.later else {})

    def reading_spec(self, text: Text) -> dict[str, Any]:
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
