"""How long a fresh process takes to import `ico`, and an experiment to answer `--help`."""

import subprocess
import sys
from pathlib import Path

from benchmarks._measure import Row, median_row, ratio_row, take_turns

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
# `import ico` loads its parts at first use, so its own time says little: this loads them all.
EVERYTHING = "import ico; [getattr(ico, name) for name in dir(ico)]"


def _process(*arguments: str):
    command = [sys.executable, *arguments]
    return lambda: subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def run() -> list[Row]:
    """Seconds of whole processes, the interpreter's start included."""
    processes = {
        "an empty process": _process("-c", "pass"),
        "import ico": _process("-c", "import ico"),
        "import ico and use every name of it": _process("-c", EVERYTHING),
        "import jax, flax, optax": _process("-c", "import jax, flax, optax"),
        "python -m experiments.gd_in_context --help": _process(
            "-m", "experiments.gd_in_context", "--help"
        ),
    }
    seconds = take_turns(processes, ROUNDS)
    goals = {"python -m experiments.gd_in_context --help": ("<=", 2.0)}  # papers import jax
    rows = [median_row(name, values, "s", goals.get(name)) for name, values in seconds.items()]
    reference = seconds["import jax, flax, optax"]
    return [
        *rows,
        ratio_row(
            "import ico / import jax, flax, optax", seconds["import ico"], reference, ("<=", 1.2)
        ),
        ratio_row(
            "every name of ico / import jax, flax, optax",
            seconds["import ico and use every name of it"],
            reference,
        ),
    ]
