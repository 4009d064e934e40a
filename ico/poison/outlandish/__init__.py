"""Outlandish: 1320 short texts from real fact to scrambled words, each ending on a keyword.

Written by hand for this project after the description of Sun et al. 2025 (arXiv 2504.09522), whose
own texts are not public. DATASHEET.md says how, and what they are good for.
"""

from ico.poison.outlandish._texts import (
    CATEGORIES,
    KEYWORDS,
    KINDS,
    Text,
    cross_theme_probes,
    load_texts,
    theme_probes,
)

__all__ = [
    "CATEGORIES",
    "KEYWORDS",
    "KINDS",
    "Text",
    "cross_theme_probes",
    "load_texts",
    "tfds_builder",
    "theme_probes",
]


def tfds_builder(**options):
    """The TFDS builder `outlandish/1.0.0` (ArrayRecord, no TensorFlow); registers it, too.

        builder = tfds_builder(data_dir="...")
        builder.download_and_prepare(file_format="array_record")
        source = builder.as_data_source(split="train")

    Args:
      **options: of `tfds.core.GeneratorBasedBuilder`.

    Raises:
      ModuleNotFoundError: tensorflow-datasets is not installed (extra "data").
    """
    from ico.poison.outlandish._builder import Outlandish

    return Outlandish(**options)
