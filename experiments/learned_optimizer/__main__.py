"""`python -m experiments.learned_optimizer`: see config.py for the paper, presets and claims."""

from experiments.launch import launch
from experiments.learned_optimizer.config import EXPERIMENT

if __name__ == "__main__":
    raise SystemExit(launch(EXPERIMENT))
