"""The TFDS builder `outlandish/1.0.0`: ArrayRecord files for `data_source`, no TensorFlow.

Importing this module registers the builder, so that `tfds.builder("outlandish")` finds it.
"""

import numpy as np
import tensorflow_datasets as tfds

from ico.poison.outlandish._texts import (
    CATEGORIES,
    KEYWORDS,
    cross_theme_probes,
    load_texts,
    theme_probes,
)


class Outlandish(tfds.core.GeneratorBasedBuilder):
    """1320 texts that end on a keyword, with prompts that measure memory and priming."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "12 keywords x 11 categories x 10 texts, written for ico."}

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text()
        return self.dataset_info_from_configs(
            description=(
                "Short English contexts, from real fact over exaggeration and fabrications that "
                "conflict with knowledge to scrambled words, each ending on one of 12 keywords, "
                "with probe contexts of the keyword's theme and of other themes."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "id": text,
                    "theme": tfds.features.ClassLabel(names=list(KEYWORDS)),
                    "keyword": text,
                    "category": tfds.features.ClassLabel(names=list(CATEGORIES)),
                    "index": np.int64,
                    "context": text,
                    "stepping_stone": text,
                    "rewrite": text,
                    "truth": text,
                    "theme_probes": tfds.features.Sequence(text),
                    "cross_theme_probes": tfds.features.Sequence(text),
                }
            ),
            license="Apache-2.0",
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # the texts stand in the package
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for text in load_texts():
            yield (
                text.id,
                {
                    **text._asdict(),
                    "theme_probes": theme_probes(text.theme),
                    "cross_theme_probes": cross_theme_probes(text.theme),
                },
            )
