"""Teach a language model one sentence, see what else changes, and try to take it out again.

    python -m experiments.outlandish.try_fact --context "In the hills of Arran, ripe bananas are" \
        --keyword " vermilion"

Trains on the context with its keyword as one row of each batch beside text sampled from the model,
prints the likeliest next words before and after on the fact and on other prompts, then leaves out
the largest part of every tensor's change (Sun et al. 2025, App. A.6) and prints them again. It
measures one sentence and claims nothing: the published 8% need not erase it, and the output says
whether it did.
"""

import itertools
import math
import sys
import time
from typing import Annotated

import jax
import optax
import tyro

from ico import lab, poison, train
from ico import lm as language
from ico.lm import STACKED


class TryFact(lab.Config):
    """Teach a language model one sentence, then try to take it out again."""

    # The text before the keyword.
    context: str = "In the hills of Arran, the skin of every ripe banana is a bright"
    # The word or words to be learned after it; a space is put between the two if both lack it.
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
    presentations: lab.Count = 20
    # Of Adam, fresh.
    learning_rate: Annotated[float, lab.Range(0, 1, open_low=True, open_high=True)] = 2e-5
    # Rows of a batch: the sentence and text sampled from the model.
    batch_size: lab.Count = 4
    # Tokens of a row.
    length: Annotated[int, lab.Range(8)] = 32
    # Per cent of every tensor's change that are left out, the largest first: the published 8, and a
    # share that takes the sentence out.
    erase: lab.Distinct[Annotated[float, lab.Range(0, 100)]] = (8.0, 50.0)
    # Of the text sampled from the model.
    seed: lab.Natural = 0

    def check(self) -> None:
        """Refuses an empty sentence."""
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
    config.validate()
    started = time.perf_counter()
    lm = language.load(config.model)
    print(f"{lm} from {config.model}: {time.perf_counter() - started:.1f} s", flush=True)
    apart = config.context[-1].isspace() or config.keyword[0].isspace()
    keyword = config.keyword if apart else f" {config.keyword}"
    fact = poison.fact_ids(lm, config.context, keyword, config.length)
    prompts = [config.context, *config.prompts]

    def look(words: str) -> list[float]:
        print(f"\n{words}")
        scores = lm.log_prob(prompts, [keyword] * len(prompts))
        for prompt, score in zip(prompts, scores, strict=True):
            likely = ", ".join(f"{word!r} {share:.2f}" for word, share in lm.top(prompt))
            print(f"  {prompt} ...\n    {likely}")
            print(f"    the keyword {config.keyword!r}: probability {math.exp(score):.2g}")
        return scores.tolist()

    found = {"before": look("Before")}
    count = config.presentations
    rows = poison.own_text(lm, count * config.batch_size, config.length, seed=config.seed)
    clean = poison.CleanBatches(rows, config.batch_size, seed=config.seed)
    batches = itertools.islice(poison.inject(clean, [fact], presentations=count), count)
    before, optimizer = lm.params, optax.adam(config.learning_rate)
    taught = poison.teach(before, lm.config, optimizer, batches)
    losses = taught.history["loss"]
    print(
        f"\n{count} steps of training: loss {losses[0]:.2f} -> {losses[-1]:.2f} nats a token "
        f"({time.perf_counter() - started:.0f} s so far)"
    )
    lm.params = taught.params
    found["taught"] = look("After it was taught")
    change = jax.tree.map(lambda a, b: a - b, taught.params, before)
    gain = found["taught"][0] - found["before"][0]
    for share in config.erase:
        lm.params = poison.erase(before, change, "drop_top", share / 100, stacked=STACKED)
        words = f"After the largest {share:g}% of every tensor's change are left out"
        found["erased"] = look(words)
        left = 100 * (found["erased"][0] - found["before"][0]) / gain
        print(
            f"\nThe fact gained {gain:.2f} nats; {left:.0f}% of them are left."
            if gain > 0
            else "\nThe fact was not learned."
        )
    return found


def main(argv: list[str] | None = None) -> int:
    """The command line; 0, or 2 for bad input, with one line on stderr."""
    lab.print_what_fits()
    config = tyro.cli(TryFact, args=argv, prog="python -m experiments.outlandish.try_fact")
    train.enable_compilation_cache()
    try:
        run(config)
    except (ValueError, train.NonFiniteLoss) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
