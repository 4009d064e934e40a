"""Text to token ids and back, by the tokenizers library."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from ico.lm._errors import WeightFileError, one_line


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Raises WeightFileError for what the library raises: bare Exceptions and Rust's panics.

    A panic is no Exception, so `except Exception` would miss it.
    """
    try:
        yield
    except BaseException as error:
        is_panic = type(error).__module__ == "pyo3_runtime"
        if not is_panic and type(error) is not Exception:
            raise
        raise WeightFileError(f"{what}: {one_line(error)}") from None


class Tokenizer:
    """Text <-> token ids.

    Attributes:
      bos_id: id of the token that begins a text, or None.
      eos_ids: ids of the tokens that end a text. Some models have several: an instruction-tuned
        one ends its turn with one token and a document with another.
      adds_bos: whether `encode` puts `bos_id` in front by default, as the file says.
    """

    def __init__(
        self,
        tokenizer,
        *,
        bos_id: int | None = None,
        eos_ids: Sequence[int] = (),
        adds_bos: bool = False,
    ):
        """Raises WeightFileError if one of the ids is no token, or there is no token to add."""
        self._tokenizer = tokenizer
        self.bos_id, self.eos_ids, self.adds_bos = bos_id, tuple(eos_ids), adds_bos
        for token_id in self.eos_ids if bos_id is None else (bos_id, *self.eos_ids):
            if not self._has(token_id):
                raise WeightFileError(f"the tokenizer has no token {token_id!r}")
        if adds_bos and bos_id is None:
            raise WeightFileError("the beginning-of-text token is to be added, but is not named")
        # A file may carry settings for training batches, which would cut texts silently.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Whether it puts a space before every text, as some SentencePiece tokenizers do.
        with library_errors("the tokenizer is damaged"):
            first = tokenizer.encode("a", add_special_tokens=False).tokens[:1]
        self._spaced = bool(first) and first[0].startswith("▁")
        self._before = self._encode("\n")

    @property
    def eos_id(self) -> int | None:
        """The first of `eos_ids`, or None."""
        return self.eos_ids[0] if self.eos_ids else None

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def largest_id(self) -> int:
        """The largest id; -1 if there is none."""
        return max(self._tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)

    def _has(self, token_id) -> bool:
        is_id = isinstance(token_id, int) and not isinstance(token_id, bool)
        return is_id and 0 <= token_id < 2**32 and self._tokenizer.id_to_token(token_id) is not None

    def _encode(self, text: str) -> list[int]:
        with library_errors("the tokenizer cannot encode this text"):
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def encode(
        self, text: str, *, bos: bool | None = None, continuation: bool = False
    ) -> list[int]:
        """Token ids of a text. Special tokens spelled out in it are recognised.

        Args:
          text: any text; it is not stripped.
          bos: whether to put the beginning-of-text token in front. None does what the model's file
            says (SmolLM2, GPT-2 and Qwen: no; Gemma and Llama: yes).
          continuation: the text continues another one, so nothing is put in front: neither that
            token nor the space that some tokenizers (Llama 2's) begin a text with.

        Raises:
          ValueError: `bos` is set, and the tokenizer has no beginning-of-text token.
          WeightFileError: the tokenizer's own rules fail on the text.
        """
        if continuation:
            return self._continuation(text)
        ids = self._encode(text)
        wanted = self.adds_bos if bos is None else bos
        if not wanted:
            return ids
        if self.bos_id is None:
            raise ValueError("this tokenizer has no beginning-of-text token")
        return [self.bos_id, *ids]

    def _continuation(self, text: str) -> list[int]:
        if self._spaced:
            # Encoded after a line break, whose tokens are then removed.
            ids = self._encode(f"\n{text}")
            if ids[: len(self._before)] == self._before:
                return ids[len(self._before) :]
        return self._encode(text)

    def decode(self, ids, *, skip_special: bool = False, continuation: bool = False) -> str:
        """The text of token ids.

        Args:
          ids: token ids.
          skip_special: leave out special tokens; else they are spelled out.
          continuation: the text continues another one and keeps the space that it begins with.
        """
        ids = [int(i) for i in ids]
        if continuation and self._spaced:
            start = self._tokenizer.decode(self._before)
            text = self._tokenizer.decode(self._before + ids, skip_special_tokens=skip_special)
            return text[len(start) :] if text.startswith(start) else text
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special)

    def token(self, token_id: int) -> str:
        """The text of one token inside a text, so with its leading space if it has one."""
        text = self._tokenizer.decode([int(token_id)], skip_special_tokens=False)
        piece = self._tokenizer.id_to_token(int(token_id)) or ""
        # A SentencePiece decoder drops the space at the start of a text.
        return " " + text if piece.startswith("▁") and not text.startswith(" ") else text

    def to_json(self) -> str:
        """The content of a tokenizer.json."""
        return self._tokenizer.to_str()

    def to_settings(self) -> dict[str, Any]:
        """The content of a tokenizer_config.json, as transformers and `from_json` read it."""

        def token(token_id: int | None) -> str | None:
            return None if token_id is None else self._tokenizer.id_to_token(token_id)

        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": token(self.bos_id),
            "eos_token": token(self.eos_id),
            "add_bos_token": self.adds_bos,
        }

    def special_ids(self) -> dict[str, Any]:
        """What config.json and generation_config.json say about the special tokens."""
        ends = list(self.eos_ids)
        return {
            "bos_token_id": self.bos_id,
            "eos_token_id": ends if len(ends) > 1 else self.eos_id,
        }

    def difference(self, other: "Tokenizer") -> str:
        """What of another tokenizer differs from this one; "" for nothing."""
        for name in ("bos_id", "eos_ids", "adds_bos"):
            if getattr(self, name) != getattr(other, name):
                return f"{name} {getattr(self, name)!r}"
        return "" if self.to_json() == other.to_json() else "tokenizer.json"
