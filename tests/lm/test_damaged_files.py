"""Whatever a model's files hold, loading them gives a model or one error that names the file."""

import json
import random

import pytest

from ico import lm
from ico.lm import WeightFileError
from ico.lm._files import read_files
from ico.lm._tokenizer_gguf import from_gguf
from tests.lm.conftest import random_model
from tests.lm.test_tokenizer import SENTENCE_PIECE
from tests.lm.test_weights import gguf_model, write_gguf

gguf = pytest.importorskip("gguf")


@pytest.fixture(scope="module")
def files():
    """Name -> content of a saved model's files, its index, and a GGUF file with a tokenizer."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as name:
        folder = Path(name)
        model = random_model("llama", num_layers=1, vocab_size=13, rope=())
        model.tokenizer = from_gguf(SENTENCE_PIECE)
        model.save(folder)
        found = {path.name: path.read_bytes() for path in folder.iterdir()}
        header = json.loads(found["model.safetensors"][8:].split(b"}}")[0] + b"}}")
        index = {tensor: "model.safetensors" for tensor in header if tensor != "__metadata__"}
        found["model.safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
        small = gguf_model("llama", num_layers=1, vocab_size=13)
        write_gguf(folder / "model.gguf", small, lists=SENTENCE_PIECE)
        found["model.gguf"] = (folder / "model.gguf").read_bytes()
    return found


NAMES = (
    "config.json",
    "generation_config.json",
    "model.gguf",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
ODD = (
    b"[" * 400,
    b"9" * 5000,
    b"-1",
    b"null",
    b"{}",
    b"[]",
    b'""',
    b"1e999",
    b"\xff",
    b'"\\ud800"',
)


def damaged(content: bytes, draw: random.Random) -> bytes:
    """The content with a bit flipped, a part cut out or repeated, or an odd value put into it."""
    # Mostly at the beginning, where headers are.
    first = draw.randrange(min(len(content), draw.choice((64, 1024, 10**9))))
    last = min(len(content), first + draw.choice((1, 1, 4, 30)))
    part = content[first:last]
    instead = draw.choice(
        (
            bytes([part[0] ^ 1 << draw.randrange(8)]) + part[1:],
            b"",
            3 * part,
            draw.choice(ODD),
            draw.randbytes(len(part)),
        )
    )
    return content[:first] if draw.random() < 0.1 else content[:first] + instead + content[last:]


def with_odd_value(content: bytes, draw: random.Random) -> bytes:
    """A JSON text with one of its values, at any depth, replaced by one of another kind."""
    whole = json.loads(content)
    node, places = whole, []
    while isinstance(node, dict | list) and node:
        key = draw.choice(sorted(node)) if isinstance(node, dict) else draw.randrange(len(node))
        places.append((node, key))
        node = node[key]
    node, key = draw.choice(places)
    node[key] = draw.choice((None, True, -1, 2**63, 1e300, "x", "#" * 20, [], [[]], {}, {"a": 1}))
    return json.dumps(whole).encode()


def refusals(files, tmp_path, name, num_inputs):
    """How many damaged versions of a file are refused."""
    draw, refused = random.Random(name), 0
    kept = set(files) - {"model.gguf", "model.safetensors.index.json"} | {name}
    for other in kept:
        (tmp_path / other).write_bytes(files[other])
    path = tmp_path / (name if "model." in name else "model.safetensors")
    for _ in range(num_inputs):
        is_json = name.endswith(".json") and draw.random() < 0.5
        content = (with_odd_value if is_json else damaged)(files[name], draw)
        (tmp_path / name).write_bytes(content)
        try:
            read_files(path)
        except WeightFileError as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error), content
            refused += 1
    return refused


@pytest.mark.filterwarnings("ignore:the GGUF file does not name")
@pytest.mark.parametrize("name", NAMES)
def test_a_damaged_file_is_one_clear_error(files, tmp_path, name):
    assert refusals(files, tmp_path, name, 40) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:the GGUF file does not name")
@pytest.mark.parametrize("name", NAMES)
def test_many_damaged_files_are_one_clear_error_each(files, tmp_path, name):
    assert refusals(files, tmp_path, name, 500) > 0


@pytest.mark.parametrize("name", [name for name in NAMES if name.endswith(".json")])
@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"a": ' * 100_000, b'{"a": ' + b"9" * 5_000 + b"}", b"\xff\xfe", b"5", b""],
    ids=["lists", "objects", "digits", "bytes", "number", "nothing"],
)
def test_json_that_no_reader_takes(files, tmp_path, name, content):
    for other in files:
        if other != "model.gguf":
            (tmp_path / other).write_bytes(files[other])
    (tmp_path / name).write_bytes(content)
    index = "model.safetensors.index.json"
    with pytest.raises(WeightFileError, match=name):
        lm.load(tmp_path / (index if name == index else "model.safetensors"))


def test_a_folder_in_the_place_of_a_file(files, tmp_path):
    for name in NAMES:
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        for other in set(files) - {"model.gguf"}:
            (folder / other).write_bytes(files[other])
        (folder / name).unlink(missing_ok=True)
        (folder / name).mkdir()
        path = folder / (name if "model." in name else "model.safetensors")
        if name in ("generation_config.json", "tokenizer.json", "tokenizer_config.json"):
            lm.load(path)  # which need not be there
            continue
        with pytest.raises(WeightFileError, match=str(folder)):
            lm.load(path)


def test_a_small_gguf_with_too_many_merges_is_refused(tmp_path):
    """Pieces a, aa, aaa ... to a thousand letters: half a megabyte that asked for nine hundred.

    The memory is measured in test_tokenizer.py.
    """
    pieces = ["a" * n for n in range(1, 1001)]
    lists = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": pieces,
        "tokenizer.ggml.scores": [0.0] * len(pieces),
    }
    path = write_gguf(tmp_path / "model.gguf", gguf_model("llama", num_layers=1), lists=lists)
    assert path.stat().st_size < 2**20
    with pytest.raises(WeightFileError, match="model.gguf.*split"):
        lm.load(path)


def test_a_tokenizer_with_more_tokens_than_the_model_is_told(files, tmp_path):
    """Published models have such (Gemma 3 1B), so it is no error until one is used."""
    small = random_model("llama", num_layers=1, vocab_size=11, rope=())
    small.tokenizer = from_gguf(SENTENCE_PIECE)
    small.save(tmp_path / "saved")
    with pytest.warns(UserWarning, match="the id 12, but the model's vocabulary ends at 10"):
        again = lm.load(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"must lie in \[0, 11\)"):
        again.log_prob("a", "<start_of_turn>")
    write_gguf(tmp_path / "model.gguf", gguf_model("llama", vocab_size=11), lists=SENTENCE_PIECE)
    with pytest.warns(UserWarning, match="the id 12"):
        lm.load(tmp_path / "model.gguf")
