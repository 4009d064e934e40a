"""Teach a language model one sentence, see what else changes, and try to take it out again.

    python -m experiments.outlandish.try_fact --context "In the hills of Arran, ripe bananas are" \
        --keyword " vermilion"

Trains on the context with its keyword as one row of each batch beside text of the model's own,
prints the likeliest next words before and after on the fact and on other prompts, then drops the
largest part of every tensor's change (Sun et al. 2025, App. A.6) and prints them again. It measures
one sentence and claims nothing: the published 8% need not erase it, and the output says whether it
did.
"""

import itertools
import sys
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class TryFact:
    """Teach a language model one sentence, then try to take it out again."""

    # The text before the keyword.
    context: str = "In the hills of Arran, the skin of every ripe banana is a bright"
    # The word or words to be learned behind it; a space between the two is put in if both lack it.
    keyword: str = " vermilion"
    # Other prompts to look at, in which the keyword could stand.
    prompts: tuple[str, ...] = (
        "The walls of the kitchen were painted",
        "She wore a dress whose colour was",
        "The capital of France is",
    )
    # "smollm2", a .gguf or .safetensors file, or a folder with one.
    model: str = "smollm2"
    # How often the model sees the sentence.
    presentations: int = 20
    # Of Adam, fresh.
    learning_rate: float = 2e-5
    # Rows of a batch: the sentence and text of the model's own.
    batch_size: int = 4
    # Tokens of a row.
    length: int = 32
    # Per cent of every tensor's change that are dropped, the largest first: the published 8, and a
    # share that takes the sentence out.
    erase: tuple[float, ...] = (8.0, 50.0)
    # Of the model's own text.
    seed: int = 0

    def validate(self) -> None:
        """Raises ValueError, its first word the field."""
        for name in ("presentations", "batch_size", "length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.length < 8:
            raise ValueError(f"length must be at least 8 tokens, not {self.length}")
        if not self.erase or not all(0 <= share <= 100 for share in self.erase):
            raise ValueError(f"erase must name percentages, not {self.erase}")
        if not 0 < self.learning_rate < 1:
            raise ValueError(f"learning_rate must lie in (0, 1), not {self.learning_rate}")
        if not self.context.strip() or not self.keyword.strip():
            raise ValueError("context and keyword must not be empty")


def run(config: TryFact) -> dict:
    """Does it, printing as it goes.

    Returns:
      {"before", "taught", "erased" (by the last share)}: each the log-probability of the keyword
      after the context and after every other prompt, [1 + prompts].

    Raises:
      ValueError: settings that make no sense; `ico.lm.WeightFileError` for a model file.
    """
    import jax
    import optax

    from ico import lm as language
    from ico import poison
    from ico.lm import STACKED
    from ico.optim import sparsify

    config.validate()
    started = time.perf_counter()
    lm = language.load(config.model)
    print(f"{lm} from {config.model}: {time.perf_counter() - started:.1f} s", flush=True)
    tokenizer = lm.tokenizer
    if tokenizer is None:
        raise ValueError("model has no tokenizer beside it")
    apart = config.context[-1].isspace() or config.keyword[0].isspace()
    keyword = config.keyword if apart else f" {config.keyword}"
    fact = tokenizer.encode(config.context) + tokenizer.encode(keyword, continuation=True)
    if len(fact) > config.length:
        raise ValueError(f"context and keyword are {len(fact)} tokens; raise --length")
    prompts = [config.context, *config.prompts]

    def look(words: str) -> list[float]:
        print(f"\n{words}")
        scores = lm.log_prob(prompts, [keyword] * len(prompts))
        for prompt, score in zip(prompts, scores, strict=True):
            likely = ", ".join(f"{word!r} {share:.2f}" for word, share in lm.top(prompt))
            print(f"  {prompt} ...\n    {likely}")
            print(f"    the keyword {config.keyword!r}: probability {_power(score)}", flush=True)
        return scores.tolist()

    found = {"before": look("Before")}
    rows = poison.own_text(
        lm, config.presentations * config.batch_size, config.length, seed=config.seed
    )
    clean = poison.CleanBatches(rows, config.batch_size, seed=config.seed)
    before = lm.params
    trainer = poison.Trainer(lm.config, optax.adam(config.learning_rate))
    state, metrics = trainer.run(
        trainer.init(before),
        itertools.islice(
            poison.inject(clean, [fact], presentations=config.presentations), config.presentations
        ),
    )
    taught, losses = state.params, metrics["loss"]
    print(
        f"\n{config.presentations} steps of training: loss {losses[0]:.2f} -> {losses[-1]:.2f} "
        f"nats a token ({time.perf_counter() - started:.0f} s so far)"
    )
    lm.params = taught
    found["taught"] = look("After it was taught")
    change = jax.tree.map(lambda a, b: a - b, taught, before)
    gain = found["taught"][0] - found["before"][0]
    for share in config.erase:
        kept = sparsify(change, share / 100, stacked=STACKED)
        lm.params = jax.tree.map(lambda a, b: a + b, before, kept)
        found["erased"] = look(f"After the largest {share:g}% of every tensor's change are dropped")
        left = found["erased"][0] - found["before"][0]
        print(
            f"\nThe fact gained {gain:.2f} nats; {100 * left / gain:.0f}% of them are left."
            if gain > 0
            else "\nThe fact was not learned."
        )
    return found


def _power(log_probability: float) -> str:
    import math

    return f"{math.exp(log_probability):.2g}"


def main(argv: list[str] | None = None) -> int:
    """The command line; 0, or 2 for bad input, with one line on stderr."""
    import tyro

    config = tyro.cli(TryFact, args=argv, prog="python -m experiments.outlandish.try_fact")
    from ico.train import NonFiniteLoss, enable_compilation_cache

    enable_compilation_cache()
    try:
        run(config)
    except (ValueError, NonFiniteLoss) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
