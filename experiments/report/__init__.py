"""The reproduction table over many runs: `python -m experiments.report DIR...`."""
