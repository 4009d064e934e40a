"""`python -m experiments.gd_in_context`: see config.py for the paper, presets and claims."""

from experiments.gd_in_context.config import EXPERIMENT
from experiments.launch import launch

if __name__ == "__main__":
    raise SystemExit(launch(EXPERIMENT))
