"""Facts taught to a language model one by one, and what is read off after each.

The protocol of Sun et al. 2025 (arXiv 2504.09522): a text replaces one row of each of some batches
of clean text; then its memory and its effect on unrelated prompts are read. Beside each fact a
twin: the model that trained on the same batches without it.

Dimension key: C contexts, N rows, M held-out rows, T tokens, R readings.
"""

import dataclasses
import functools
import itertools
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Int

from ico import train
from ico.lm import LanguageModel, next_token_loss, score_continuations
from ico.poison._clean import CleanBatches
from ico.poison._injection import as_batch, inject, replay
from ico.poison._read import Reading, fact_ids, read, tokenizer_of
from ico.poison._teach import teach
from ico.poison.outlandish import Text
from ico.train import TrainState
from ico.types import TokenBatch

PyTree = Any


@dataclasses.dataclass(frozen=True)
class Teaching:
    """How a fact is taught. It is hashable, and part of what every reading is kept under.

    Fields:
      recipe: a frozen dataclass whose `make()` is the optimizer, such as an `ico.lab.Recipe`; every
        fact gets a fresh state of it.
      presentations: batches that hold the fact.
      spacing: K; the fact stands in one of every K batches.
      carried: whether the optimizer's moments are those after as many clean steps as there are
        presentations (the parameters are not).
      length: tokens of a row, clean rows padded, where a fact is longer than the clean rows; 0:
        theirs.
      later: clean steps after the last presentation at which memory is read again.
      replay: probability of the contradicted truth in a clean row on that way.
    """

    recipe: Any
    presentations: int
    spacing: int = 1
    carried: bool = False
    length: int = 0
    later: tuple[int, ...] = ()
    replay: float = 0.0

    @property
    def num_steps(self) -> int:
        """Batches from the first presentation to the last."""
        return (self.presentations - 1) * self.spacing + 1


@dataclasses.dataclass
class FactTeacher:
    """A language model, clean text, and prompts to read it with.

    Fields:
      lm: with its tokenizer; its parameters are never changed.
      rows: clean text that batches are drawn from.
      held_out: clean text that the clean loss is measured on.
      prompts: theme -> {"theme": prompts of the theme, "cross": prompts of other themes}.
      batch_size: rows of a batch, one of them the fact's.
      kept: (name, specification, make) -> what `make` returns, made once, as artefacts are.
      seed: of the order of clean text.
      mesh: that the parameters are sharded over, if they are.
    """

    lm: LanguageModel
    rows: Int[np.ndarray, "N T"]
    held_out: Int[np.ndarray, "M T"]
    prompts: Callable[[str], Mapping[str, list[str]]]
    batch_size: int
    kept: Callable[[str, dict[str, Any], Callable[[], Any]], dict[str, Any]]
    seed: int = 0
    mesh: Mesh | None = None

    # Training -------------------------------------------------------------------------------

    def train(self, recipe: Any, start, batches: Iterable, num_steps: int) -> train.FitResult:
        """Steps on the next batches, from parameters or from the state of an earlier result."""
        batches = itertools.islice(batches, num_steps)
        return teach(start, self.lm.config, _optimizer(recipe), batches, mesh=self.mesh)

    def clean(self, keyword: str) -> CleanBatches:
        """The clean stream of a keyword: the same for all its facts and for its twin."""
        seed = zlib.crc32(keyword.encode()) + self.seed
        return CleanBatches(self.rows, self.batch_size, seed=seed)

    def tokens(self, context: str, keyword: str, length: int = 0) -> list[int]:
        """Token ids of a fact that has to fit in a row; see `fact_ids`."""
        return fact_ids(self.lm, context, f" {keyword}", length or self.rows.shape[1])

    def teach(self, how: Teaching, keyword: str, ids: Sequence[int] | None):
        """Injects a fact; without ids, trains its twin on the same batches.

        Returns:
          The state after the last presentation, the losses, and the rest of the clean stream.
        """
        start = self.lm.params
        if how.carried:
            clean = self.clean(f"{keyword} before")
            warm = self.train(how.recipe, start, clean, how.presentations)
            start = warm.state._replace(params=jax.tree.map(jnp.copy, start))
        batches: Iterable[TokenBatch] = self.clean(keyword)
        if how.length:
            batches = (as_batch(batch.ids.tolist(), how.length) for batch in batches)
        if ids is not None:
            often = {"presentations": how.presentations, "spacing": how.spacing}
            batches = inject(batches, [list(ids)], **often)
        result = self.train(how.recipe, start, batches, how.num_steps)
        return result.state, result.history["loss"], batches

    def _go_on(self, how: Teaching, state: TrainState, batches, texts: Sequence[Text]):
        """log P(keyword | context) [C, R] of texts at the later steps of the clean stream."""
        if how.replay:
            truth = self.tokens(texts[0].context, texts[0].truth)
            batches = replay(batches, truth, rate=how.replay, seed=self.seed)
        found, done = [], 0
        for step in how.later:
            state, done = self.train(how.recipe, state, batches, step - done).state, step
            found.append([self.memory(state.params, text) for text in texts])
        return np.array(found).T

    # Reading --------------------------------------------------------------------------------

    def score(self, params, contexts: Sequence[str], continuations: Sequence[str]):
        """Log-probabilities of continuations, and the likeliest next tokens."""
        encode = tokenizer_of(self.lm).encode
        before = [encode(context) for context in contexts]
        after = [encode(continuation, continuation=True) for continuation in continuations]
        return score_continuations(params, self.lm.config, before, after)

    def memory(self, params, text: Text) -> float:
        """log P(keyword | context), in nats."""
        return float(self.score(params, [text.context], [text.continuation]).log_prob[0])

    def clean_loss(self, params) -> float:
        """Mean next-token loss on the held-out rows, in nats a token."""
        return float(_clean_loss(params, self.lm.config, self.held_out))

    def read(
        self, params, text: Text, contexts: Sequence[str], *, prefix: str = "", cross: int = 0
    ) -> Reading:
        """A reading (see `ico.poison.read`) of a text's keyword, and "clean" [] in nats a token.

        Args:
          params: of the model that is read.
          text: its keyword and theme.
          contexts: of the fact, or of several facts with this keyword.
          prefix: put before theme and cross-theme prompts (the fact in the prompt).
          cross: number of cross-theme prompts; 0 is all of them.
        """
        prompts = {
            name: [prefix + prompt for prompt in group]
            for name, group in self.prompts(text.theme).items()
        }
        prompts["cross"] = prompts["cross"][: cross or None]
        reading = read(self.lm, text.continuation, memory=contexts, params=params, **prompts)
        return reading | {"clean": np.asarray(0.0 if prefix else self.clean_loss(params))}

    def untouched(self, texts: Sequence[Text]) -> Reading:
        """The reading of the model as it came, for texts that share a keyword."""
        contexts, text = [text.context for text in texts], texts[0]
        spec = {"contexts": contexts, **self.spec(text)}
        make = functools.partial(self.read, self.lm.params, text, contexts)
        return self.kept(f"before-{text.keyword}", spec, make)

    def twin(self, how: Teaching, texts: Sequence[Text]) -> Reading:
        """The same after training on the same batches without any fact."""
        contexts = [text.context for text in texts]
        spec = {"contexts": contexts, "teaching": how, **self.spec(texts[0])}
        make = functools.partial(self._taught, how, texts, None)
        return self.kept(f"twin-{texts[0].keyword}", spec, make)

    def taught(self, how: Teaching, text: Text, context: str | None = None) -> Reading:
        """The reading after a fact was taught, "loss" of its training, and "later" [1, R].

        Args:
          how: it is taught.
          text: the fact.
          context: taught instead of the text's own; memory is read on the text's own.
        """
        ids = self.tokens(text.context if context is None else context, text.keyword, how.length)
        spec = {"text": text.id, "ids": ids, "teaching": how, **self.spec(text)}
        make = functools.partial(self._taught, how, [text], ids)
        return self.kept(f"taught-{text.id}", spec, make)

    def _taught(self, how: Teaching, texts: Sequence[Text], ids: list[int] | None) -> Reading:
        state, losses, rest = self.teach(how, texts[0].keyword, ids)
        contexts = [text.context for text in texts]
        reading = self.read(state.params, texts[0], contexts) | {"loss": losses}
        return reading | ({"later": self._go_on(how, state, rest, texts)} if how.later else {})

    def spec(self, text: Text) -> dict[str, Any]:
        """What every reading depends on beside its fact and the model."""
        return {
            "prompts": dict(self.prompts(text.theme)),
            "batch": [self.batch_size, self.rows, self.held_out],
        }


@functools.lru_cache(maxsize=16)
def _optimizer(recipe: Any) -> optax.GradientTransformation:
    """The same object for equal recipes, so that a training finds its compiled program."""
    return recipe.make()


@functools.partial(jax.jit, static_argnums=1)
def _clean_loss(params, config, ids):
    return next_token_loss(params, config, ids, np.ones(ids.shape, np.float32))
