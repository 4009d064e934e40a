"""What a study is given: configuration, folder, randomness, and what is made once."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Hashable, Iterator
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import jax
from jaxtyping import Array, Key

from ico import train
from ico.files import commit_of

T = TypeVar("T")
P = ParamSpec("P")


@dataclasses.dataclass
class Run:
    """One run of an experiment: all its studies share it.

    Fields:
      config: the configuration.
      directory: the run's folder, absolute.
      seed: of everything random.
      preset: smoke, cpu or paper; "" in a notebook.
      progress: whether to show progress bars.
      code: the folder of the experiment's code, whose commit is kept with what it made.
    """

    config: Any
    directory: Path
    seed: int = 0
    preset: str = ""
    progress: bool = dataclasses.field(default_factory=lambda: sys.stderr.isatty())
    code: Path = dataclasses.field(default_factory=Path.cwd)
    _memory: dict[Hashable, Any] = dataclasses.field(default_factory=dict, repr=False)
    _said: list[str] = dataclasses.field(default_factory=list, repr=False)
    _commit: str = ""

    @property
    def num_seeds(self) -> int:
        """Models that are trained wherever one is: the configuration's field `num_seeds`."""
        return self.config.num_seeds

    @property
    def artifacts(self) -> Path:
        """The folder of everything that is kept."""
        return self.directory / "checkpoints"

    @property
    def commit(self) -> str:
        """Of the experiment's code, when this run began."""
        self._commit = self._commit or commit_of(self.code)
        return self._commit

    def key(self, name: str) -> Key[Array, ""]:
        """A random key for `name`: the same in every process, whatever other studies run."""
        # Not hash(): Python salts it, so it differs from process to process.
        digest = hashlib.sha256(name.encode()).digest()
        return jax.random.fold_in(jax.random.key(self.seed), int.from_bytes(digest[:4], "big"))

    def kept(self, name: str, spec: Any, make: Callable[[Path], Any]) -> dict[str, Any]:
        """What `make` returns, kept on disk under the hash of `spec` and the run's seed.

        Studies that need the same thing find it; so does a run that is resumed. With it are kept
        its specification and the commit of the code that made it.

        Args:
          name: a readable name.
          spec: everything it depends on beside the seed: numbers, strings, arrays, dataclasses,
            lists and dicts of them.
          make: gets its own folder, where a training may put its checkpoints, and returns nested
            dicts of arrays.

        Returns:
          Nested dicts of NumPy arrays, the same to the last bit whether made or found.

        Raises:
          TypeError: `spec` holds something that cannot be hashed, such as a function.
        """
        spec = {"spec": spec, "seed": self.seed}
        return train.kept(self.artifacts, name, spec, make, commit=self.commit)

    def once(self, name: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, made once in this run and held in memory: a model, a data set."""
        if name not in self._memory:
            self._memory[name] = make()
        return self._memory[name]

    def note(self, sentence: str) -> None:
        """A sentence for the reader of this run; from inside a study."""
        self._said.append(sentence)

    @contextlib.contextmanager
    def noting(self) -> Iterator[list[str]]:
        """Collects the notes of one study."""
        before, self._said = self._said, []
        try:
            yield self._said
        finally:
            self._said = before


def once(make: Callable[Concatenate[Run, P], T]) -> Callable[Concatenate[Run, P], T]:
    """Decorates a function (run, ...) that is called once in a run for equal arguments: `Run.once`.

        @lab.once
        def trained_layer(run, dim=10): ...

    Arguments beside the run must be hashable; those left at their default count as given.
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def found(run: Run, *args: P.args, **kwargs: P.kwargs) -> T:
        bound = signature.bind(run, *args, **kwargs)
        bound.apply_defaults()
        _, *rest = bound.arguments.items()
        name = (make.__module__, make.__qualname__, *rest)
        return run.once(name, lambda: make(run, *args, **kwargs))

    return found
