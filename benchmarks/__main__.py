"""`python -m benchmarks [NAME ...] [--json FILE]`, also `make bench`.

Every ratio is the median over rounds in which its sides took turns, so that whatever else the
machine does meets both. Rates depend on the machine: the matrix product on top tells them apart.
"""

import argparse
import importlib
import json
import os
import platform
import sys
import time
from pathlib import Path

from benchmarks._measure import Row

NAMES = (
    "training",
    "noisy_regression",
    "attention",
    "mesa",
    "optimizers",
    "averaging",
    "few_shot",
    "adaptation",
    "language_model",
    "imports",
)


def main() -> int:
    """Runs the named benchmarks, or all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)}; or all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the numbers there, too")
    arguments = parser.parse_args()
    for name in arguments.names:
        if name not in NAMES:
            parser.error(f"no benchmark {name!r}; choose from {', '.join(NAMES)}")
    if arguments.json and not arguments.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no folder {arguments.json.absolute().parent}")
    if arguments.json and arguments.json.is_dir():
        parser.error(f"--json: {arguments.json} is a folder; name a file")

    started, written = time.perf_counter(), {}
    print(_machine(), flush=True)
    for name in ("matmul", *(arguments.names or NAMES)):
        rows = importlib.import_module(f"benchmarks.{name}").run()
        _print_table(name, rows)
        written[name] = [row.as_dict() for row in rows]
    print(f"\ndone in {time.perf_counter() - started:.0f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    return 0


def _machine() -> str:
    import jax

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return (
        f"{platform.system()} {platform.machine()}, {cores} cores{load}; "
        f"{jax.devices()[0].device_kind}, jax {jax.__version__}, "
        f"Python {platform.python_version()}"
    )


def _print_table(name: str, rows: list[Row]) -> None:
    cells = [row.cells() for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print(f"\n{name}")
    for what, value, unit, spread, goal in cells:
        print(
            f"  {what:<{widths[0]}}  {value:>{widths[1]}} {unit:<{widths[2]}}"
            f"  {spread:<{widths[3]}}  {goal}".rstrip()
        )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
