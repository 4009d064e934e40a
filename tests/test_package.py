"""What a user meets first: the import, the listing, the README, the pinned requirements."""

import ast
import importlib
import io
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
OURS = ("ico", "experiments", "benchmarks")
HEAVY = {"jax", "flax", "optax", "orbax", "matplotlib", "tensorflow", "sklearn", "tensorboardX"}


def test_import_is_lazy(python):
    done = python("-c", f"import ico, sys; print(*sorted({HEAVY} & sys.modules.keys()))")
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_report_is_imported_without_what_it_draws_with(python):
    code = f"import ico.report, sys; print(*sorted({HEAVY} & sys.modules.keys()))"
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert not done.stdout.split()


def test_every_public_name_is_there():
    import ico

    for name in dir(ico):
        assert getattr(ico, name) is not None, name
    with pytest.raises(AttributeError, match="nonsense"):
        ico.nonsense  # noqa: B018


def test_every_name_that_a_package_promises_is_there():
    import ico

    for package in ico._PACKAGES:
        if not ico._exists(package):
            continue
        module = importlib.import_module(f"ico.{package}")
        for name in getattr(module, "__all__", ()):
            assert hasattr(module, name), f"ico.{package}.{name}"


def test_benchmarks_and_notebooks_use_names_that_are_there():
    """They are run by hand alone, and so would not notice that something moved."""
    for path in [*(ROOT / "benchmarks").glob("*.py"), *(ROOT / "colabs").glob("*.py")]:
        tree, modules = ast.parse(path.read_text()), {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in OURS:
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    try:
                        found = getattr(module, name.name)
                    except AttributeError:
                        found = importlib.import_module(f"{node.module}.{name.name}")
                    if isinstance(found, types.ModuleType):
                        modules[name.asname or name.name] = found
            elif isinstance(node, ast.Import):
                names = [n.name for n in node.names if n.name.split(".")[0] in OURS]
                modules |= {
                    n.split(".")[0]: importlib.import_module(n.split(".")[0]) for n in names
                }
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                module = modules.get(node.value.id)
                assert module is None or hasattr(module, node.attr), (
                    f"{path.name}:{node.lineno}: {module.__name__} has no {node.attr!r}"
                )


@pytest.mark.parametrize("what", ["listing", "table"])
def test_output_fits_any_encoding(what, monkeypatch):
    """PYTHONIOENCODING=ascii, or an old locale."""
    from experiments.__main__ import main
    from experiments.report.run import main as table

    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, encoding="ascii"))
    arguments = [str(ROOT / "experiments" / "gd_in_context")]
    assert (main([]) if what == "listing" else table(arguments)) == 0
    sys.stdout.flush()
    assert b"?" in raw.getvalue() and raw.getvalue().isascii()


def test_listing_imports_no_more_than_it_needs(python):
    """Papers import jax; what draws, checkpoints and tokenises waits for a run."""
    done = python("-X", "importtime", "-m", "experiments")
    assert done.returncode == 0, done.stderr
    assert "python -m experiments" in done.stdout
    late = "orbax|matplotlib|sklearn|scipy.stats|tokenizers|gguf|tensorboardX"
    assert not re.search(rf"\| +({late})$", done.stderr, re.MULTILINE)


def readme_blocks():
    """Python blocks of the README and of docs/ that are marked with `<!-- test -->`."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    text = "".join(page.read_text() for page in pages)
    return re.findall(r"<!-- test -->\s*```python\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("code", readme_blocks())
def test_readme_runs(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README", "exec"), {"__name__": "__main__"})


def test_requirements_are_pinned():
    """For every Python we support: a package that differs among them has a line for each."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    for line in pinned:
        assert re.fullmatch(r"[a-z0-9._-]+(\[[a-z,]+\])?==[\w.!+]+( ; .+)?", line), line
    jax = [line for line in pinned if line.startswith("jax==")]
    assert len(jax) == 2 and all("python_full_version" in line for line in jax)


def tracked_files():
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git repository")
    return [ROOT / line for line in done.stdout.splitlines()]


def test_no_machine_is_named():
    """Neither a path of somebody's machine nor the host of a package registry."""
    folders = "|".join(["home", "root", "work", "Users", "opt", "mnt"])
    hosts = "|".join(["pypi", "pythonhosted", "npmjs", "debian"])
    pattern = re.compile(rf"(?<![\w.)}}\]])/(?:{folders})/[\w.]|(?:{hosts})\.(?:org|com)")
    for path in tracked_files():
        if not path.is_file():
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue  # arrays and pictures
        found = pattern.search(text)
        assert not found, f"{path.relative_to(ROOT)}: {found.group()}"


def test_versions_agree():
    import ico

    assert f"version = {ico.__version__}\n" in (ROOT / "setup.cfg").read_text()
    assert f"version: {ico.__version__}\n" in (ROOT / "CITATION.cff").read_text()
