"""The real model of a run, its clean text, and the texts that are taught to it.

Every reading is kept under the hash of what made it, so a killed study goes on at the next fact.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from ico import data, lab, poison, train
from ico import lm as language
from ico.poison import Teaching
from ico.poison.outlandish import KEYWORDS, Text, cross_theme_probes, load_texts, theme_probes

# The categories whose memory is followed after injection: one for each kind that claims compare.
RETAINED = {
    "conflicting": "conflict_general",
    "mundane": "novel_plausible",
    "scrambled": "scrambled",
}


def teaching(config, presentations: int | None = None, *, rate: float = 0.0, **changes) -> Teaching:
    """The preset's way to teach, with changes; `rate` is the learning rate, if another.

    Sun et al. 2025 replace one row of each of 20 to 40 batches; their batch size, learning rate and
    optimizer are UNVERIFIED.
    """
    presentations = presentations or config.presentations
    recipe = lab.Recipe(presentations, rate or config.learning_rate, clip=None)
    return Teaching(recipe, presentations, **changes)


def bench(run: lab.Run) -> "Bench":
    """The model of a run, loaded once for all its studies."""
    return run.once("bench", lambda: Bench(run))


class Bench(poison.FactTeacher):
    """A model, its clean text, and the settings of a run."""

    def __init__(self, run: lab.Run):
        self.run, self.config = run, run.config
        try:
            lm = language.load(self.config.model)
        except language.WeightFileError as error:
            raise lab.InputError("model", " ".join(str(error).split())) from error
        if (tokenizer := lm.tokenizer) is None:
            raise lab.InputError("model", f"{self.config.model} has no tokenizer beside it")
        lm, mesh = _first_layers(lm, self.config.layers), None
        if (devices := jax.local_device_count()) > 1:
            mesh = train.make_mesh({"model": devices})
            lm.params = language.shard_params(lm.params, lm.config, mesh)
        held_out, rows = np.split(self._clean_rows(lm, tokenizer), [self.config.held_out_rows])
        size, seed = self.config.batch_size, run.seed
        super().__init__(lm, rows, held_out, self._prompts, size, self._kept, seed, mesh)

    def _clean_rows(self, lm: language.LanguageModel, tokenizer) -> np.ndarray:
        config, seed = self.config, self.run.seed
        count = config.clean_rows + config.held_out_rows

        def make():
            if config.clean == "own":
                return {"rows": poison.own_text(lm, count, config.length, seed=seed)}
            try:
                texts = data.tfds_texts(config.clean)
                rows = data.text_rows(texts, tokenizer.encode, config.length, num_rows=count)
            except (ValueError, KeyError, OSError, ImportError) as error:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                raise lab.InputError("clean", f"no text from {config.clean!r}: {reason}") from error
            return {"rows": rows.ids}

        spec = {"clean": config.clean, "rows": count, "length": config.length}
        return self._kept("clean_text", spec, make)["rows"]

    def _prompts(self, theme: str) -> dict[str, list[str]]:
        return {
            "theme": theme_probes(theme)[: self.config.theme_probes],
            "cross": cross_theme_probes(theme, self.config.cross_probes),
        }

    def _kept(self, name, spec, make):
        """As `run.kept`, with the model in the specification."""
        model: list = [self.config.model, self.config.layers]
        if (path := Path(self.config.model)).exists():
            # Another file of the same name is another model.
            files = sorted(path.iterdir()) if path.is_dir() else [path]
            model += [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in files]
        return self.run.kept(name, {**spec, "model": model}, lambda _: make())

    def tokens(self, context: str, keyword: str, length: int = 0) -> list[int]:
        """Token ids of a fact; raises InputError if it does not fit in a row."""
        try:
            return super().tokens(context, keyword, length)
        except ValueError as error:
            field, _, message = str(error).partition(" ")
            raise lab.InputError(field, message) from error

    def followed(self, how: Teaching, text: Text, context: str | None = None) -> poison.Reading:
        """The reading of a taught fact, and its memory later where a claim compares that."""
        if text.category in RETAINED.values() and not text.index:
            how = dataclasses.replace(how, later=self.config.retention_steps)
        return self.taught(how, text, context)

    def texts(
        self, categories: Sequence[str], *, samples: int | None = None, few: bool = False
    ) -> list[list[Text]]:
        """The chosen texts, one list for each keyword, in the order of the categories."""
        number = self.config.few_keywords if few else self.config.keywords
        texts = load_texts(categories, per_cell=samples or self.config.samples)
        return [
            sorted(
                (text for text in texts if text.keyword == word),
                key=lambda text: (categories.index(text.category), text.index),
            )
            for words in list(KEYWORDS.values())[: self.config.themes]
            for word in words[:number]
        ]

    def conflicting(self, *, few: bool = False) -> list[Text]:
        """One conflicting fact of each keyword."""
        return [texts[0] for texts in self.texts(("conflict_general",), samples=1, few=few)]

    def progress(self, items, label: str):
        """The items behind a progress bar, where there is a terminal."""
        return tqdm(items, desc=label, disable=not self.run.progress, leave=False)


def _first_layers(lm: language.LanguageModel, count: int) -> language.LanguageModel:
    """The model without its upper layers; all of it if count is 0."""
    if not 0 < count < lm.config.num_layers:
        return lm
    changes = {"num_layers": count, "local_layers": lm.config.local_layers[:count]}
    layers = jax.tree.map(lambda leaf: leaf[:count], lm.params["layers"])
    config = dataclasses.replace(lm.config, **changes)
    return language.LanguageModel(lm.params | {"layers": layers}, config, lm.tokenizer)
