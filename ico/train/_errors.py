"""What can stop a run. Every message is one line: what happened, where, and the mend."""

from collections.abc import Mapping
from pathlib import Path


class TrainingError(Exception):
    """Base of everything `fit` raises on purpose."""


class CheckpointError(TrainingError):
    """A checkpoint, or the folder it belongs in, cannot be written, read or used."""


class NonFiniteLoss(TrainingError):
    """The loss, or the parameters after the step, became infinite or NaN.

    Attributes:
      step: the step it happened in. Its batch is `sampler(fold_in(state.key, step))`.
      seed: position on the seed axis, None without one.
      norms: loss, gradient, update and parameter norms of that step.
      last_checkpoint: the newest good checkpoint, None if none was written.
    """

    def __init__(
        self, step: int, seed: int | None, norms: Mapping[str, float], last_checkpoint: Path | None
    ):
        self.step, self.seed, self.norms = step, seed, dict(norms)
        self.last_checkpoint = last_checkpoint
        where = f"step {step}" if seed is None else f"step {step}, seed {seed}"
        values = ", ".join(f"{name} {value:.4g}" for name, value in self.norms.items())
        super().__init__(
            f"training is no longer finite at {where} ({values}); last good checkpoint: "
            f"{last_checkpoint or 'none'}; lower the learning rate or clip the gradient, "
            "unless that step's batch is at fault (a token outside the vocabulary, say)"
        )


class Interrupted(TrainingError):
    """A signal asked the run to stop; it stopped at the end of a compiled call and saved.

    Attributes:
      signal: the signal's name, such as "SIGTERM".
      step: steps done.
      directory: where the run was saved, None if it was not.
    """

    def __init__(self, signal: str, step: int, directory: Path | None):
        self.signal, self.step, self.directory = signal, step, directory
        saved = (
            "nothing was saved, since the run has no directory"
            if directory is None
            else f"saved in {directory}; run the same command again with --resume to go on"
        )
        super().__init__(f"stopped by {signal} after step {step}; {saved}")
