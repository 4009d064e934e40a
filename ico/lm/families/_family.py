"""What there is to say about a model family."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from ico.lm._config import DecoderConfig
from ico.lm.families._gguf_header import GgufHeader


@dataclasses.dataclass(frozen=True)
class Family:
    """How the published files of one family of models are read and written.

    Parameters are named as in `ico.lm.param_shapes`. Parameters that share a tensor's name stand
    in one tensor of the file, in the order of the table (GPT-2's query, key and value).

    Fields:
      name: `DecoderConfig.family`, and `general.architecture` in GGUF files.
      model_types: values of `model_type` in config.json that mean this family.
      from_hf: config.json -> configuration. A missing key may raise KeyError.
      to_hf: configuration -> config.json.
      from_gguf: header of a GGUF file -> configuration.
      layer_names: parameter of a layer -> (name in GGUF, name in safetensors), without
        `blk.N.` or the layer's prefix and without `.weight` or `.bias`.
      top_names: the same for the parameters outside the layers.
      layer_prefix: what stands before a layer's number in safetensors.
      optional_prefix: what many safetensors files put before every name but the head's; it is
        written, and it is not needed for reading.
      ignored: endings of safetensors names that hold no weights.
      kernels_in_out: safetensors hold the matrices of the layers as [in, out] (GPT-2's Conv1D)
        instead of [out, in].
      norm_offset: safetensors hold the scales of norms minus this number; GGUF holds them whole.
      gguf_interleaves_rotary_pairs: GGUF reorders the rows of query and key so that the two
        coordinates turned by one rotary angle are neighbours; in the decoder they are half a head
        apart.
    """

    name: str
    model_types: tuple[str, ...]
    from_hf: Callable[[dict[str, Any]], DecoderConfig]
    to_hf: Callable[[DecoderConfig], dict[str, Any]]
    from_gguf: Callable[[GgufHeader], DecoderConfig]
    layer_names: Mapping[str, tuple[str, str]]
    top_names: Mapping[str, tuple[str, str]]
    layer_prefix: str = "model.layers."
    optional_prefix: str = ""
    ignored: tuple[str, ...] = (".rotary_emb.inv_freq",)
    kernels_in_out: bool = False
    norm_offset: int = 0
    gguf_interleaves_rotary_pairs: bool = False

    def tensor_name(self, name: str, part: str, layer: int | None, *, gguf: bool) -> str:
        """The name of a parameter's tensor in a file.

        Args:
          name: the parameter, as "query".
          part: "kernel", "scale" or "bias".
          layer: the layer's number; None for parameters outside the layers.
          gguf: whether the file is GGUF, else safetensors.
        """
        if layer is None:
            stem = self.top_names[name][0 if gguf else 1]
        else:
            stem = self.layer_names[name][0 if gguf else 1]
            stem = f"{'blk.' if gguf else self.layer_prefix}{layer}.{stem}"
        return f"{stem}.{'bias' if part == 'bias' else 'weight'}"
