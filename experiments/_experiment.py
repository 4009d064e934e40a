"""What an experiment declares about itself, and what one of its studies is given.

Nothing here imports jax: `--help` and the listing have to answer at once.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

    from ico.report import Claim

# Flags that every experiment has; a configuration may not use these names for its fields.
COMMON_FLAGS = ("preset", "out", "seed", "resume", "studies", "help")


class InputError(Exception):
    """The user asked for something that cannot be done: printed as one line, exit status 2.

    Args:
      field: the field, flag or file at fault.
      message: what is wrong with it, and the mend.
    """

    def __init__(self, field: str, message: str):
        super().__init__(f"{field}: {message}")
        self.field = field


@dataclass(frozen=True)
class Experiment:
    """A paper as it can be run: its presets, its studies and the claims they are to show.

    `package` is where `run.py` and `figures.py` are found; by default `experiments.<name>`.
    """

    name: str
    title: str
    authors: str
    year: int
    arxiv: str
    shows: str
    presets: Mapping[str, Any]
    studies: Mapping[str, str]
    claims: tuple[Claim, ...]
    cost: Mapping[str, str]
    package: str = ""

    def __post_init__(self):
        if not self.package:
            object.__setattr__(self, "package", f"experiments.{self.name}")
        if set(self.cost) != set(self.presets):
            raise ValueError(f"{self.name}: every preset needs a cost, and no other does")
        kinds = {type(config) for config in self.presets.values()}
        if len(kinds) != 1 or not dataclasses.is_dataclass(next(iter(kinds))):
            raise TypeError(f"{self.name}: presets must be instances of one dataclass")
        taken = {field.name for field in dataclasses.fields(next(iter(kinds)))} & set(COMMON_FLAGS)
        if taken:
            raise ValueError(f"{self.name}: field names taken by common flags: {sorted(taken)}")
        ids = [claim.id for claim in self.claims]
        if len(set(ids)) != len(ids):
            raise ValueError(f"{self.name}: two claims share an id")

    @property
    def default_preset(self) -> str:
        """The preset of a call that names none."""
        return "cpu" if "cpu" in self.presets else next(iter(self.presets))


@dataclass(frozen=True)
class Context:
    """What a study gets: its configuration, its folder and its source of randomness."""

    config: Any
    directory: Path
    seed: int
    preset: str
    progress: bool

    def key(self, name: str) -> jax.Array:
        """A random key for `name`: the same in every process, whatever other studies run."""
        import jax  # late: this module must stay free of jax

        # Not hash(): Python salts it, so it differs from process to process.
        digest = hashlib.sha256(name.encode()).digest()
        return jax.random.fold_in(jax.random.key(self.seed), int.from_bytes(digest[:4], "big"))
