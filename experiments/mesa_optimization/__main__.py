"""`python -m experiments.mesa_optimization`: see config.py for the paper, presets and claims."""

from experiments.launch import launch
from experiments.mesa_optimization.config import EXPERIMENT

if __name__ == "__main__":
    raise SystemExit(launch(EXPERIMENT))
