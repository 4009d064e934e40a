"""Training: state, step, loop, checkpoints, mesh, metrics. Knows no task and no paper.

    step = make_step(loss_fn, optax.adam(1e-3))
    state = init_state(init_params, optax.adam(1e-3), jax.random.key(0))
    state, history = fit(step, state, sampler, LoopConfig(num_steps=1000), directory="runs/a")

Orbax, tensorboardX and tqdm are imported only by a run that uses them.
"""

from ico.train._data import Stream
from ico.train._errors import CheckpointError, Interrupted, NonFiniteLoss, TrainingError
from ico.train._loop import FitResult, LoopConfig, fit
from ico.train._state import TrainState, init_state
from ico.train._step import make_step
from ico.train._trajectory import Trajectory
from ico.train.artifacts import artifact_directory, kept, load_artifact, save_artifact
from ico.train.compilation import compile_quickly, enable_compilation_cache
from ico.train.mesh import make_mesh

__all__ = [
    "CheckpointError",
    "FitResult",
    "Interrupted",
    "LoopConfig",
    "NonFiniteLoss",
    "Stream",
    "TrainState",
    "TrainingError",
    "Trajectory",
    "artifact_directory",
    "compile_quickly",
    "enable_compilation_cache",
    "fit",
    "init_state",
    "kept",
    "load_artifact",
    "make_mesh",
    "make_step",
    "save_artifact",
]
