"""Tokenizers from a GGUF file's metadata: byte-level BPE and SentencePiece.

GGUF lists the tokens and only names the pre-tokenizer; this file holds what the names mean.
"""

import contextlib
import warnings
from typing import Any, NamedTuple

from ico.lm._errors import WeightFileError, one_line
from ico.lm._tokenizer import Tokenizer, library_errors

_LONGEST = 1_000  # characters of a token; `_sentence_piece` tries all ways to split it in two
# Characters in all merges of a SentencePiece vocabulary. Gemma's 262,144 tokens have about seven
# million; the tokens a, aa, aaa ... have as many as the cube of their number.
_MOST_MERGED = 32_000_000
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
      adds_bos: whether texts begin with the beginning-of-text token if the file does not say.
    """

    pattern: str
    single_digits: bool = False
    nfc: bool = False
    ignore_merges: bool = False
    adds_bos: bool = False


_LLAMA3 = _PreTokenizer(_LLAMA3_SPLIT, ignore_merges=True, adds_bos=True)
# `tokenizer.ggml.pre` -> what the tokenizer.json of the models named after it do.
_PRE_TOKENIZERS = {
    "gpt-2": _PreTokenizer(_GPT2_SPLIT),
    "smollm": _PreTokenizer(_GPT2_SPLIT, single_digits=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _PreTokenizer(_QWEN2_SPLIT, nfc=True),  # of Qwen 2, 2.5 and 3
}


# `general.architecture` -> the pre-tokenizer of its models, for files that do not name it.
_PRE_TOKENIZER_OF: dict[Any, str] = {"gpt2": "gpt-2", "qwen2": "qwen2", "qwen3": "qwen2"}
_LLAMA3_TOKENS = {"<|begin_of_text|>", "<|end_of_text|>"}


def from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer in a GGUF file's metadata: byte-level BPE or SentencePiece.

    A byte-level file that does not name its pre-tokenizer (`tokenizer.ggml.pre`) is read with that
    of its architecture, or of Llama 3 by its tokens, and a warning.

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

    def checked(name):
        value = get(name)
        if value is not None and not (isinstance(value, int) and 0 <= value < len(tokens)):
            raise WeightFileError(f"tokenizer.ggml.{name} {value!r} is no token")
        return value

    model, adds_bos = get("model"), True
    named = None if get("pre") == "default" else get("pre")
    with _damage():
        if model == "gpt2":
            pre = _pre_tokenizer(named or _guessed_pre(metadata, vocab))
            backend, adds_bos = _byte_level(vocab, get("merges"), pre), pre.adds_bos
        elif model == "llama":
            scores = get("scores")
            if not isinstance(scores, list) or len(scores) != len(tokens):
                raise WeightFileError("tokenizer.ggml.scores does not name every token")
            space_prefix = bool(get("add_space_prefix", True))
            unknown_id = checked("unknown_token_id")
            backend = _sentence_piece(tokens, vocab, scores, kinds, unknown_id, space_prefix)
        else:
            raise WeightFileError(f"tokenizer {model!r} is not supported (gpt2, llama)")
        _add_special(backend, tokens, kinds)
    bos_id = checked("bos_token_id")
    # The ends of a document, of a turn and of a message.
    ends = [checked(f"{name}_token_id") for name in ("eos", "eot", "eom")]
    eos_ids = dict.fromkeys(end for end in ends if end is not None)
    adds_bos = bool(get("add_bos_token", adds_bos and bos_id is not None))
    if adds_bos and bos_id is not None:
        with _damage():
            _put_in_front(backend, tokens[bos_id], bos_id)
    if model == "gpt2" and not named and metadata.get("general.architecture") != "gpt2":
        warnings.warn(
            "the GGUF file does not name its pre-tokenizer (tokenizer.ggml.pre), so texts are "
            f"split as {_guessed_pre(metadata, vocab)!r} does; if that is not the model's own, "
            "convert the model anew with a current llama.cpp",
            stacklevel=2,
        )
    return Tokenizer(backend, bos_id=bos_id, eos_ids=tuple(eos_ids), adds_bos=adds_bos)


@contextlib.contextmanager
def _damage():
    """Raises WeightFileError for whatever the library makes of lists that it does not expect."""
    with library_errors("the tokenizer is damaged"):
        try:
            yield
        except WeightFileError:
            raise
        except Exception as error:
            raise WeightFileError(f"the tokenizer is damaged: {one_line(error)}") from None


def _guessed_pre(metadata: dict[str, Any], vocab) -> str:
    """What `tokenizer.ggml.pre` should be, for a file without it."""
    if vocab.keys() >= _LLAMA3_TOKENS:
        return "llama-bpe"
    return _PRE_TOKENIZER_OF.get(metadata.get("general.architecture"), "gpt-2")


def _pre_tokenizer(name: Any) -> _PreTokenizer:
    if not isinstance(name, str) or name not in _PRE_TOKENIZERS:
        raise WeightFileError(
            f"pre-tokenizer {name!r} is not supported (known: {', '.join(sorted(_PRE_TOKENIZERS))})"
        )
    return _PRE_TOKENIZERS[name]


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


def _byte_level(vocab, merges, wanted: _PreTokenizer):
    """Byte-level BPE with a pre-tokenizer."""
    from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    if not isinstance(merges, list) or not all(
        isinstance(pair, str) and pair.count(" ") == 1 for pair in merges
    ):
        raise WeightFileError("the file lacks tokenizer.ggml.merges")
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
    merges: list[tuple[float, int, int]] = []
    num_merged = 0
    for token, index in mergeable.items():
        halves = [
            (mergeable.get(token[:at]), mergeable.get(token[at:])) for at in range(1, len(token))
        ]
        splits = sorted((a, b) for a, b in halves if a is not None and b is not None)
        num_merged += len(token) * len(splits)
        if num_merged > _MOST_MERGED:
            raise WeightFileError("too many tokens can be split in too many ways")
        merges += [(-scores[index], first, second) for first, second in splits]
    merges.sort(key=lambda entry: entry[0])  # stable: the splits of one token keep their order
    unknown = None if unknown_id is None else tokens[unknown_id]
    backend = Backend(
        models.BPE(
            vocab=vocab,
            merges=[(tokens[first], tokens[second]) for _, first, second in merges],
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
