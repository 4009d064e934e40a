"""Executes every notebook of this folder: `name.py` (jupytext percent format) -> `name.ipynb`.

    python colabs/execute.py [NAME ...]

Exit status 1 if any of them fails; the traceback of the failing cell is printed.
"""

import argparse
import sys
import time
from pathlib import Path

import jupytext
import nbclient
import nbformat

FOLDER = Path(__file__).resolve().parent
SECONDS_A_CELL = 600


def execute(source: Path) -> None:
    """Runs one notebook in the repository's root and writes it with its outputs."""
    notebook = jupytext.read(source)
    # This interpreter, whatever kernels are installed for the user.
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "display_name": "Python 3",
        "language": "python",
    }
    client = nbclient.NotebookClient(
        notebook,
        timeout=SECONDS_A_CELL,
        kernel_name="python3",
        # Else every kernel warns that it talks to us over an unencrypted local socket.
        extra_arguments=["--IPKernelApp.log_level=ERROR"],
        resources={"metadata": {"path": str(FOLDER.parent)}},
    )
    client.execute()
    for number, cell in enumerate(notebook.cells):
        # Random ids and times would differ between two equal executions.
        cell["id"] = f"cell-{number}"
        cell.metadata.pop("execution", None)
    nbformat.write(notebook, source.with_suffix(".ipynb"))


def main() -> int:
    """Executes the named notebooks, or all of them."""
    parser = argparse.ArgumentParser(description="Execute the notebooks of colabs/.")
    parser.add_argument("names", nargs="*", help="notebooks to run (default: all)")
    names = parser.parse_args().names
    sources = [FOLDER / f"{Path(name).stem}.py" for name in names]
    sources = sources or sorted(set(FOLDER.glob("*.py")) - {Path(__file__).resolve()})
    failed = []
    for source in sources:
        started = time.perf_counter()
        try:
            execute(source)
        except (nbclient.exceptions.CellExecutionError, nbclient.exceptions.CellTimeoutError) as e:
            print(e, file=sys.stderr)
            failed.append(source.name)
        except FileNotFoundError:
            print(f"error: no notebook {source}", file=sys.stderr)
            failed.append(source.name)
        else:
            print(f"{source.name}: {time.perf_counter() - started:.0f} s", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
