"""`python -m experiments`: every experiment with its paper, cost and status."""

from experiments._discovery import discover, status


def main() -> int:
    """Prints the list."""
    found, broken = discover()
    for name, experiment in found.items():
        print(f"{name}: {experiment.title} ({experiment.authors}, {experiment.year})")
        print(f"  paper   arXiv:{experiment.arxiv}")
        print(f"  shows   {experiment.shows}")
        costs = ", ".join(f"{preset} {cost}" for preset, cost in experiment.cost.items())
        print(f"  cost    {costs}")
        print(f"  status  {status(name)}")
        print(f"  launch  python -m {experiment.package}")
        print()
    for name, reason in broken.items():
        print(f"{name}: cannot be read ({reason})\n")
    if not found and not broken:
        print("There are no experiments yet.\n")
    print("Every experiment answers to --help. Gather runs: python -m experiments.report DIR...")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
