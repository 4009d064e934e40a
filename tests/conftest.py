"""What all tests share: strict promotion of ranks, 64-bit floats on request, short examples.

Warnings are errors (pyproject.toml), and ico's jaxtyping annotations are enforced.
"""

import gc
import os
import sys
from pathlib import Path

import chex
import hypothesis
import jax
import jaxtyping
import pytest

ROOT = Path(__file__).resolve().parents[1]

jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation makes the first example slow, so a deadline would fail at random.
hypothesis.settings.register_profile("ico", deadline=None, max_examples=20, derandomize=True)
hypothesis.settings.load_profile("ico")


@pytest.fixture(autouse=True)
def fresh_trace_counts():
    """`chex.assert_max_traces` counts by the code of a function, over all tests of a process."""
    chex.clear_trace_counter()


@pytest.fixture(autouse=True, scope="module")
def few_memory_maps():
    """Forgets compiled programs before they fill the process's memory maps: each has several.

    Linux allows 65,530; with more, LLVM crashes in the middle of a compilation.
    """
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 25_000:
        jax.clear_caches()
        gc.collect()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Whole models and trainings without jit, dozens of small compilations each, are slow tests."""
    rooms = {"algorithms", "conformance", "lm", "metatrain", "models", "optim"}
    for item in items:
        if "without_jit" in item.name and rooms & set(item.path.parts):
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def annotations_off():
    """Calls as users make them: without the tests' hook, which would object to bad shapes first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def x64():
    """64-bit floats for this test: `def test_exact(x64): ...`."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def environment():
    """Environment variables for a subprocess that runs this repository's code."""
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "xla"))
    own = {"PYTHONPATH": os.pathsep.join(paths), "JAX_COMPILATION_CACHE_DIR": cache}
    return {**os.environ, **own, "COLUMNS": "100"}


@pytest.fixture
def python(environment):
    """Runs `python ARGS` in the repository's root: `python("-m", "experiments")`."""
    import subprocess

    def run(*arguments, **options):
        options = {"cwd": ROOT, "env": environment, "timeout": 900} | options
        command = [sys.executable, *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, **options)

    return run
