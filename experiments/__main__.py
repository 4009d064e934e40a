"""`python -m experiments`: every experiment; `python -m experiments NAME ...` launches one."""

import difflib
import sys

from experiments._discovery import discover, find, modules, status
from ico import lab


def main(argv: list[str]) -> int:
    """Prints the list, or launches the experiment that is named first."""
    lab.print_what_fits()
    if argv and not argv[0].startswith("-"):
        name, *rest = argv
        if name not in modules():
            close = difflib.get_close_matches(name, modules(), n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            words = f"unknown experiment {name!r}; {hint}`python -m experiments` lists them"
            print(f"error: {words}", file=sys.stderr)
            return 2
        if argv == sys.argv[1:]:  # the process's own command line, which stays so
            del sys.argv[1]
            return find(name).main()
        return find(name).main(rest)
    found, broken = discover()
    for name, paper in found.items():
        print(f"{name}: {paper.title}" + (f" ({paper.citation})" if paper.citation else ""))
        print(f"  shows   {paper.shows}")
        costs = ", ".join(f"{preset} {cost}" for preset, cost in paper.cost.items() if cost)
        print(f"  cost    {costs}" if costs else "", end="\n" if costs else "")
        print(f"  status  {status(paper)}")
        print(f"  launch  {paper.command}\n")
    for name, reason in broken.items():
        print(f"{name}: cannot be read ({reason})\n")
    print("Every experiment answers to --help. Gather runs: python -m experiments.report DIR...")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
