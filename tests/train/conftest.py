import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def program():
    """The small regression problem of program.py, which subprocesses run too."""
    path = Path(__file__).with_name("program.py")
    spec = importlib.util.spec_from_file_location("train_program", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
