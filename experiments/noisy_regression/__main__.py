"""`python -m experiments.noisy_regression`: see config.py for the paper, presets and claims."""

from experiments.launch import launch
from experiments.noisy_regression.config import EXPERIMENT

if __name__ == "__main__":
    raise SystemExit(launch(EXPERIMENT))
