"""Every reader of files meets mutated files: it reads them, or says in one line which is at fault.

Bytes are flipped, cut, repeated and exchanged; values in JSON are replaced by hostile ones. Beside
the error's type, memory is watched: no file may ask for much more than its own size.
"""

import contextlib
import copy
import gzip
import io
import json
import resource
import warnings
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ico import _run, data, files, lab, lm, optim, report, train
from ico.lab import _run_folder
from ico.report import Claim, Measurement, Records, StudyResult, record
from ico.train import _log

_DEEP = "[" * 2_000 + "]" * 2_000
HOSTILE = [None, True, False, 0, -1, 1, 2**31, 2**63, 2**64, -(10**30), 1e308, -1e308, 5e-324]
HOSTILE += [float("nan"), float("inf"), "", "a", "\x00", "../x", "9" * 400, "é", "{}", "<b>|`"]
HOSTILE += [
    [],
    {},
    [None],
    [[]],
    [1, 2],
    [2, 1],
    [0.0, "1"],
    {"": None},
    {"a": {"b": []}},
    ["x"] * 9,
]


# What is read ---------------------------------------------------------------------------------


def _results(folder: Path) -> list[str]:
    claims = (
        Claim("one.loss", "It falls.", "Fig. 1", "nats", (0.2, 0.3), "core", 0.25),
        Claim("one.exact", "It is exact.", "Eq. 1", "", (None, 1e-4), "ours"),
    )
    found = [
        Measurement(0.25, (0.24, 0.26), 3, 10, claim="one.loss"),
        Measurement(1e-5, None, 0, 5, "a note", claim="one.exact"),
    ]
    records = Records([record("curve", depth=2, loss=np.arange(6.0).reshape(2, 3))])
    study = StudyResult(records, found, {"t": [{"a": 1, "b": "x"}]}, ["said"], 1.5, "abc", "def")
    report.save_study(folder, "one", study)
    report.write_results(
        folder, experiment="tiny", preset="cpu", seed=0, claims=claims, studies={"one": study},
        config={"a": {"b": 1}}, git="abc",
    )  # fmt: skip
    return ["results.json"]


def _read_results(folder: Path) -> None:
    results = report.read_results(folder)
    report.reproduction_table([results])
    report.reproduction_table([results], format="html")
    report.write_html(folder, title="t", paper="p", questions={"one": "?"})


def _study(folder: Path) -> list[str]:
    _results(folder)
    return ["studies/one.json", "studies/one.npz"]


def _read_study(folder: Path) -> None:
    found = report.load_study(folder, "one")
    if found is not None:
        list(found.records)


def _tree(folder: Path) -> list[str]:
    tree = {
        "a": {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(2, jnp.bfloat16)},
        "n": np.int32(3),
    }
    files.save_tree(folder / "t.npz", tree)
    return ["t.npz"]


def _artifact(folder: Path) -> list[str]:
    train.save_artifact(folder, {"w": np.ones((2, 3))}, commit="abc")
    return ["done.json", "arrays.npz"]


def _a_run(folder: Path) -> list[str]:
    (folder / "config.json").write_text(json.dumps({"experiment": "tiny", "config": {"a": [1]}}))
    (folder / "results.json").write_text('{"claims": []}')
    model = {"class": "LinearTransformer", "arguments": {"num_layers": 1}}
    spec = {"model": model, "seeds": 2, "seed": 0}
    artifact = train.artifact_directory(folder / "checkpoints", "m", spec)
    train.save_artifact(artifact, {"params": {"w": np.ones(2)}}, commit="abc")
    inside = artifact.relative_to(folder)
    return ["config.json", "results.json", f"{inside}/spec.json", f"{inside}/arrays.npz"]


def _optimizer(name: str):
    def write(folder: Path) -> list[str]:
        learner = optim.learned(name)
        theta = learner.init(jax.random.key(0), {"w": jnp.ones((2, 3))})
        optim.save(folder, name, theta, {}, {"task": "digits"})
        return ["optimizer.json", "theta.npz"]

    return write


def _marks(folder: Path) -> list[str]:
    (folder / ".unfinished.json").write_text('["first", "second"]')
    return [".unfinished.json"]


def _metrics(folder: Path) -> list[str]:
    log = _log.MetricLog(folder, 0)
    for step in (10, 20):
        log.add(step, {"loss": np.array([0.5, np.nan]), "grad_norm": np.float32(1.0)})
    log.close()
    return ["metrics.jsonl"]


def _read_metrics(folder: Path) -> None:
    log = _log.MetricLog(folder, 20)
    try:
        log.history()
    finally:
        log.close()


def _idx(folder: Path) -> list[str]:
    for name, array in (
        ("images-idx3", np.zeros((2, 4, 4), np.uint8)),
        ("labels-idx1", np.zeros(2, np.uint8)),
    ):
        header = bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape)
        content = gzip.compress(header + array.tobytes())
        (folder / f"t10k-{name}-ubyte.gz").write_bytes(content)
    return ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]


def _language_model(folder: Path) -> list[str]:
    from tests.lm.conftest import random_model

    random_model("llama", num_layers=1, local_layers=()).save(folder)
    return ["config.json", "model.safetensors"]


READERS = {
    "json": (lambda f: [(f / "a.json").write_text('{"a": [1, {"b": "c"}], "d": 1.5}') and "a.json"],
             lambda f: files.read_json(f / "a.json")),
    "tree": (_tree, lambda f: files.load_tree(f / "t.npz")),
    "results": (_results, _read_results),
    "study": (_study, _read_study),
    "artifact": (_artifact, train.load_artifact),
    "run": (_a_run, _run.load_run),
    "adafac_mlp": (_optimizer("adafac_mlp"), optim.load),
    "l3rs": (_optimizer("l3rs"), optim.load),
    "marks": (_marks, _run_folder.unfinished_studies),
    "metrics": (_metrics, _read_metrics),
    "idx": (_idx, lambda f: data.fashion_mnist("test", f)),
    "language model": (_language_model, lm.load),
}  # fmt: skip
ALLOWED = (files.FileError, lm.WeightFileError, lab.InputError, train.CheckpointError)


# How it is damaged ----------------------------------------------------------------------------


def _places(value, path=()):
    yield path
    items = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, child in items:
        yield from _places(child, (*path, key))


def mutate_json(content: bytes, rng: np.random.Generator) -> bytes:
    """One or two values replaced, removed, or nested too deep."""
    value = {"": json.loads(content)}
    for _ in range(rng.integers(1, 3)):
        places = [path for path in _places(value) if path]
        *outer, key = places[rng.integers(len(places))]
        node = value
        for step in outer:
            node = node[step]
        kind = rng.integers(10)
        if kind == 0 and outer:
            del node[key]
        elif kind == 1:
            node[key] = [node[key]]
        elif kind == 2 and isinstance(node[key], str):
            node[key] = node[key][::-1] + "\x00" * int(rng.integers(2))
        else:
            node[key] = copy.deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
    text = json.dumps(value.get("", None))
    if rng.random() < 0.05:
        text = text.replace("[", _DEEP[:2_000], 1)
    if rng.random() < 0.05:
        text = text.replace("0", "9" * 5_000, 1)
    return text.encode()


def mutate_npz(content: bytes, rng: np.random.Generator) -> bytes:
    """An entry changed inside a zip file that is whole."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    names = list(entries)
    name = names[rng.integers(len(names))]
    kind = rng.integers(5)
    if kind == 0:
        entries[f"{name[:-4]}/{'x/' * int(rng.integers(200))}y.npy"] = entries.pop(name)
    elif kind == 1:
        header = entries[name].replace(b"(", b"(9999999999, ", 1)
        entries[name] = header.replace(b" " * 12, b"", 1)
    elif kind == 2:
        entries[name] = entries[name].replace(b"<f", rng.choice([b"<U", b"|O", b"<c", b"<M"]), 1)
    else:
        entries[name] = mutate_bytes(entries[name], rng)
    buffer = io.BytesIO()
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.2 else zipfile.ZIP_STORED
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for entry, inside in entries.items():
            archive.writestr(entry, inside)
    return buffer.getvalue()


def mutate_bytes(content: bytes, rng: np.random.Generator) -> bytes:
    """Bits flipped, a piece cut out, repeated or exchanged for noise."""
    array = bytearray(content)
    start = int(rng.integers(len(array) + 1))
    end = min(len(array), start + int(rng.integers(1, 64)))
    kind = rng.integers(6)
    if kind == 0:
        return bytes(array[:start])
    if kind == 1:
        del array[start:end]
    elif kind == 2:
        array[start:start] = array[start:end] * int(rng.integers(1, 50))
    elif kind == 3:
        array[start:end] = rng.bytes(end - start)
    else:
        for _ in range(rng.integers(1, 4)):
            if array:
                array[rng.integers(len(array))] ^= 1 << int(rng.integers(8))
    return bytes(array)


def mutated(path: Path, content: bytes, rng: np.random.Generator) -> bytes:
    kind = rng.random()
    if path.suffix == ".json" and kind < 0.8:
        return mutate_json(content, rng)
    if path.suffix == ".npz" and kind < 0.6:
        return mutate_npz(content, rng)
    return mutate_bytes(content, rng)


def check(reader: str, folder: Path, count: int) -> int:
    """Reads so many mutated files; returns how many were refused."""
    write, read = READERS[reader]
    paths = [folder / name for name in write(folder)]
    originals = {path: path.read_bytes() for path in paths}
    refused, before = 0, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(count):
        rng = np.random.default_rng(seed)
        path = paths[seed % len(paths)]
        path.write_bytes(mutated(path, originals[path], rng))
        try:
            with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
                warnings.simplefilter("ignore")
                read(folder)
        except ALLOWED as error:
            refused += 1
            message = str(error)
            assert str(folder) in message and "\n" not in message.strip(), (seed, message)
        except Exception as error:
            raise AssertionError(f"{reader}, {path.name}, seed {seed}: {error!r}") from error
        finally:
            path.write_bytes(originals[path])
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 400, f"{reader}: {grown:.0f} MiB"
    read(folder)
    return refused


@pytest.mark.parametrize("reader", READERS)
def test_mutated_files_are_read_or_refused_in_one_line(reader, tmp_path):
    assert check(reader, tmp_path, 40) or reader in ("artifact", "study")  # these two warn


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_many_mutated_files(reader, tmp_path):
    check(reader, tmp_path, 1_000)
