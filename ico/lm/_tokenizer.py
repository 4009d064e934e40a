"""Tokenizers from a GGUF file's metadata or from a tokenizer.json, run by the tokenizers library.

GGUF lists the tokens and only names the pre-tokenizer; this file holds what the names mean.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from ico.lm._errors import WeightFileError

_LONGEST = 1_000  # characters of a token; `_sentence_piece` tries all ways to split it in two
# Kinds of tokens in GGUF.
_NORMAL, _UNKNOWN, _CONTROL, _USER, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6

_GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")


class _PreTokenizer(NamedTuple):
    """How byte-level BPE cuts a text into words before it merges bytes.

    Fields:
      pattern: regular expression that matches a word.
      single_digits: cut numbers into digits before the pattern is applied.
      nfc: compose characters and their accents first (Unicode's NFC).
      ignore_merges: take a word that is a token as it is, without merging.
    """

    pattern: str
    single_digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False


_LLAMA3 = _PreTokenizer(_LLAMA3_SPLIT, ignore_merges=True)
# `tokenizer.ggml.pre` -> what the tokenizer.json of the models named after it do.
_PRE_TOKENIZERS = {
    "default": _PreTokenizer(_GPT2_SPLIT),
    "gpt-2": _PreTokenizer(_GPT2_SPLIT),
    "smollm": _PreTokenizer(_GPT2_SPLIT, single_digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _PreTokenizer(_QWEN2_SPLIT, nfc=True),  # of Qwen 2, 2.5 and 3
}


class Tokenizer:
    """Text <-> token ids.

    Attributes:
      bos_id, eos_id: ids of the tokens that begin and end a text, or None.
      adds_bos: whether `encode` puts `bos_id` in front by default, as the file says.
      vocab_size: number of ids.
    """

    def __init__(self, tokenizer, *, bos_id=None, eos_id=None, adds_bos=False):
        self._tokenizer = tokenizer
        self.bos_id, self.eos_id, self.adds_bos = bos_id, eos_id, adds_bos
        # A file may carry settings for training batches, which would cut texts silently.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        # Whether it puts a space before every text, as some SentencePiece tokenizers do.
        first = tokenizer.encode("a", add_special_tokens=False).tokens[:1]
        self._spaced = bool(first) and first[0].startswith("▁")
        self._before = tokenizer.encode("\n", add_special_tokens=False).ids

    @property
    def vocab_size(self) -> int:
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

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
        """
        if continuation:
            return self._continuation(text)
        ids = self._tokenizer.encode(text, add_special_tokens=False).ids
        wanted = self.adds_bos if bos is None else bos
        if not wanted:
            return ids
        if self.bos_id is None:
            raise ValueError("this tokenizer has no beginning-of-text token")
        return [self.bos_id, *ids]

    def _continuation(self, text: str) -> list[int]:
        if self._spaced:
            # Encoded after a line break, whose tokens are then removed.
            ids = self._tokenizer.encode(f"\n{text}", add_special_tokens=False).ids
            if ids[: len(self._before)] == self._before:
                return ids[len(self._before) :]
        return self._tokenizer.encode(text, add_special_tokens=False).ids

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


def from_json(path: Path) -> Tokenizer:
    """The tokenizer of a tokenizer.json; the files beside it name the special tokens.

    Raises:
      WeightFileError: a file cannot be parsed.
    """
    from tokenizers import Tokenizer as Backend

    try:
        backend = Backend.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises bare Exceptions
        raise WeightFileError(f"{path} is no tokenizer: {error}") from None
    settings: dict[str, Any] = {}
    for name in ("generation_config.json", "config.json", "tokenizer_config.json"):
        beside = path.parent / name
        if beside.is_file():
            try:
                found = json.loads(beside.read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                raise WeightFileError(f"{beside} is no JSON") from None
            settings |= found if isinstance(found, dict) else {}

    def id_of(which: str) -> int | None:
        token = settings.get(f"{which}_token")
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return backend.token_to_id(token)
        value = settings.get(f"{which}_token_id")
        value = value[0] if isinstance(value, list) and value else value
        return value if isinstance(value, int) else None

    bos_id = id_of("bos")
    # Whether a token is put in front is decided by the post-processor, not by the settings.
    around = backend.encode("a", add_special_tokens=True).ids
    adds_bos = bool(around) and bos_id is not None and around[0] == bos_id
    return Tokenizer(backend, bos_id=bos_id, eos_id=id_of("eos"), adds_bos=adds_bos)


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata: byte-level BPE or SentencePiece.

    Raises:
      WeightFileError: an unknown kind or pre-tokenizer, or lists that do not match.
    """

    def get(name, default=None):
        return metadata.get(f"tokenizer.ggml.{name}", default)

    tokens, kinds = get("tokens"), get("token_type")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise WeightFileError("the file lacks tokenizer.ggml.tokens")
    kinds = [_NORMAL] * len(tokens) if kinds is None else kinds
    if len(kinds) != len(tokens):
        raise WeightFileError("tokenizer.ggml.token_type does not name every token")
    vocab = {token: index for index, token in enumerate(tokens)}
    if len(vocab) != len(tokens):
        raise WeightFileError("tokenizer.ggml.tokens names a token twice")
    if max(map(len, tokens), default=0) > _LONGEST:
        raise WeightFileError(f"tokenizer.ggml.tokens has one of more than {_LONGEST} characters")
    model = get("model")
    try:
        if model == "gpt2":
            backend = _byte_level(vocab, get("merges"), get("pre", "default"))
        elif model == "llama":
            scores = get("scores")
            if not isinstance(scores, list) or len(scores) != len(tokens):
                raise WeightFileError("tokenizer.ggml.scores does not name every token")
            space_prefix = bool(get("add_space_prefix", True))
            backend = _sentence_piece(
                tokens, vocab, scores, kinds, get("unknown_token_id"), space_prefix
            )
        else:
            raise WeightFileError(f"tokenizer {model!r} is not supported (gpt2, llama)")
    except WeightFileError:
        raise
    except Exception as error:  # the library raises bare Exceptions
        raise WeightFileError(f"the tokenizer is damaged: {error}") from None
    _add_special(backend, tokens, kinds)

    def checked(name):
        value = get(name)
        if value is not None and not (isinstance(value, int) and 0 <= value < len(tokens)):
            raise WeightFileError(f"tokenizer.ggml.{name} {value!r} is no token")
        return value

    bos_id = checked("bos_token_id")
    adds_bos = get("add_bos_token", model == "llama" or get("pre") == "llama-bpe")
    adds_bos = bool(adds_bos) and bos_id is not None
    if adds_bos:
        _put_in_front(backend, tokens[bos_id], bos_id)
    return Tokenizer(backend, bos_id=bos_id, eos_id=checked("eos_token_id"), adds_bos=adds_bos)


def _put_in_front(backend, token: str, token_id: int) -> None:
    """Makes a tokenizer.json written from this say that texts begin with the token."""
    from tokenizers.processors import TemplateProcessing

    backend.post_processor = TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", token, "$B"], special_tokens=[(token, token_id)]
    )


def _add_special(backend, tokens, kinds) -> None:
    from tokenizers import AddedToken

    for wanted, add in ((_CONTROL, backend.add_special_tokens), (_USER, backend.add_tokens)):
        add(
            [
                AddedToken(token, normalized=False, special=wanted == _CONTROL)
                for token, kind in zip(tokens, kinds, strict=True)
                if kind == wanted and token
            ]
        )


def _byte_level(vocab, merges, pre: str):
    """Byte-level BPE with the pre-tokenizer of a GGUF name."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    if not isinstance(merges, list) or not all(
        isinstance(pair, str) and pair.count(" ") == 1 for pair in merges
    ):
        raise WeightFileError("the file lacks tokenizer.ggml.merges")
    if pre not in _PRE_TOKENIZERS:
        raise WeightFileError(
            f"pre-tokenizer {pre!r} is not supported (known: {', '.join(sorted(_PRE_TOKENIZERS))})"
        )
    wanted = _PRE_TOKENIZERS[pre]
    digits = [pre_tokenizers.Digits(individual_digits=True)] if wanted.single_digits else []
    steps = [
        *digits,
        pre_tokenizers.Split(Regex(wanted.pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    pairs = [tuple(pair.split(" ")) for pair in merges]
    backend = Backend(models.BPE(vocab=vocab, merges=pairs, ignore_merges=wanted.ignore_merges))
    if wanted.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentence_piece(tokens, vocab, scores, kinds, unknown_id, space_prefix: bool):
    """SentencePiece BPE. Merges are ordered by the scores of their results, the best first."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    mergeable = {
        token: index
        for token, index, kind in zip(tokens, range(len(tokens)), kinds, strict=True)
        if kind in (_NORMAL, _USER)
    }
    merges = []
    for token, index in mergeable.items():
        splits = [
            (token[:at], token[at:])
            for at in range(1, len(token))
            if token[:at] in mergeable and token[at:] in mergeable
        ]
        splits.sort(key=lambda pair: (mergeable[pair[0]], mergeable[pair[1]]))
        merges += [(-scores[index], pair) for pair in splits]
    merges.sort(key=lambda entry: entry[0])  # stable: the splits of one token keep their order
    unknown = tokens[unknown_id] if isinstance(unknown_id, int) else None
    backend = Backend(
        models.BPE(
            vocab=vocab,
            merges=[pair for _, pair in merges],
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=_BYTE in kinds,
        )
    )
    replace = normalizers.Replace(" ", "▁")
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), replace]) if space_prefix else replace
    )
    steps: list[decoders.Decoder] = [
        decoders.Replace("▁", " "),
        decoders.ByteFallback(),
        decoders.Fuse(),
    ]
    if space_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    backend.decoder = decoders.Sequence(steps)
    return backend
