"""`python -m experiments.outlandish`: see config.py for the papers, presets and claims."""

from experiments.launch import launch
from experiments.outlandish.config import EXPERIMENT

if __name__ == "__main__":
    raise SystemExit(launch(EXPERIMENT))
