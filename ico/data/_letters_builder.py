"""The TFDS builder `letters/1.0.0`: ArrayRecord files for `data_source`, no TensorFlow.

Importing this module registers the builder, so that `tfds.builder("letters")` finds it.
"""

import io

import tensorflow_datasets as tfds
from PIL import Image

from ico.data._letters import SCRIPTS, letters


class Letters(tfds.core.GeneratorBasedBuilder):
    """Letters of fifteen scripts, drawn with the fonts inside Matplotlib and distorted."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "20 drawings of each class, 28 x 28."}

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=(
                "Letters of fifteen scripts, of which no two look alike, each drawn in the faces "
                "of the fonts inside Matplotlib, then turned, slanted, scaled, moved and bent."
            ),
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(28, 28, 1)),
                    "label": tfds.features.ClassLabel(names=list(letters().names)),
                    "script": tfds.features.ClassLabel(names=list(SCRIPTS)),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager) -> dict:
        del dl_manager  # the letters are drawn here
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        found = letters()
        classes = zip(found.names, found.groups, found.pixels, strict=True)
        for k, (name, script, drawings) in enumerate(classes):
            for n, image in enumerate(drawings):
                # Written here: TFDS would need TensorFlow to make a PNG of an array.
                png = io.BytesIO()
                Image.fromarray(image[..., 0]).save(png, "png")
                yield f"{k}-{n}", {"image": png.getvalue(), "label": name, "script": script}
