"""The header of a GGUF file as a family reads it."""

from typing import Any, NamedTuple

from ico.lm._errors import WeightFileError


class GgufHeader(NamedTuple):
    """Metadata and tensor shapes of a GGUF file.

    Fields:
      architecture: `general.architecture`; most keys begin with it.
      metadata: all keys and values.
      shapes: tensor name -> shape, matrices as [out, in].
    """

    architecture: str
    metadata: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]

    def get(self, name: str, *default) -> Any:
        """The value of `<architecture>.<name>`.

        Raises:
          WeightFileError: the key is missing, and there is no default.
        """
        value = self.metadata.get(f"{self.architecture}.{name}", *default)
        if value is None and not default:
            raise WeightFileError(f"the file lacks {self.architecture}.{name}")
        return value

    def sizes(self) -> dict[str, Any]:
        """The sizes of the decoder, and whether its head is tied, as fields of DecoderConfig.

        Raises:
          WeightFileError: a size is missing or makes no sense.
        """
        embedding = self.shapes.get("token_embd.weight", ())
        if len(embedding) != 2:
            raise WeightFileError("the file lacks a two-dimensional token_embd.weight")
        heads, dim = self.get("attention.head_count"), self.get("embedding_length")
        if not (isinstance(heads, int) and isinstance(dim, int) and heads > 0):
            raise WeightFileError("heads and width must be the same in all layers, and positive")
        return {
            "vocab_size": embedding[0],
            "dim": dim,
            "num_layers": self.get("block_count"),
            "num_heads": heads,
            "num_kv_heads": self.get("attention.head_count_kv", heads),
            "head_dim": self.get("attention.key_length", dim // heads),
            "mlp_dim": self.get("feed_forward_length"),
            "context_length": self.get("context_length"),
            "tied": "output.weight" not in self.shapes,
        }
