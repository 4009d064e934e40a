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
# # HyperTransformer: draw five symbols, get a network
#
# Zhmoginov et al. 2022, [arXiv:2201.04182](https://arxiv.org/abs/2201.04182)
#
# A transformer reads a handful of labelled images and writes, in one forward pass, all weights of
# a small convolutional network that tells their classes apart. Nothing is trained on those images:
# the network is what attention makes of them. This page trains such a transformer on letters of a
# dozen scripts, then shows it five symbols of nobody's alphabet, and asks the network about a sixth
# drawing.
#
# To open this page in Colab: *File, Upload notebook*. The whole runs in about three minutes.

# %%
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # in Colab: the address of this code, such as "git+https://..." for pip

try:
    import ico  # noqa: F401
except ImportError:
    here = next((p for p in (Path.cwd(), Path.cwd().parent) if (p / "setup.cfg").exists()), None)
    if not (REPOSITORY or here):
        raise SystemExit("Set REPOSITORY above to where `ico` can be installed from.") from None
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", REPOSITORY or str(here)], check=True
    )

import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax
from PIL import Image, ImageDraw

from ico import data, models, train

cache = train.enable_compilation_cache()  # programs compiled once are kept

# %% [markdown]
# ## Letters to learn from
#
# Drawn with the fonts that come with Matplotlib, each face a drawer with a shaky hand. An episode
# has five classes, one labelled image of each, and queries. Scripts are split: what the transformer
# is tested on it has never seen a letter of.

# %%
SIZE, WAY = 16, 5
letters = data.letters(SIZE)
unseen = ("ARMENIAN", "HEBREW", "TIFINAGH", "NKO", "OGHAM")
training = letters.of_groups(*(g for g in letters.all_groups if g not in unseen))
testing = letters.of_groups(*unseen)
arrays, unseen_arrays = (jax.tree.map(jnp.asarray, x.arrays) for x in (training, testing))
episode = data.FewShot(way=WAY, shot=1, queries=4)
print(f"{len(training.names)} letters to learn from, {len(testing.names)} to be tested on")

shown = data.few_shot(jax.random.key(3), episode, arrays)
fig, axes = plt.subplots(2, WAY, figsize=(6, 2.7))
for k in range(WAY):
    axes[0, k].imshow(shown.prompt.x[0, k].reshape(SIZE, SIZE), cmap="gray")
    axes[1, k].imshow(shown.prompt.x_query[0, 4 * k].reshape(SIZE, SIZE), cmap="gray")
for ax in axes.flat:
    ax.axis("off")
fig.suptitle("an episode: five labelled images (above), a query of each class (below)", fontsize=9)
plt.show()

# %% [markdown]
# ## Learning to write networks
#
# The network that is written has four convolutions of six channels and a head. Its loss on the
# queries is differentiated with respect to the transformer, through the network that it wrote. As
# in the paper, images that are asked about together are normalised together.

# %%
model = models.HyperTransformer((SIZE, SIZE, 1), WAY, channels=6, inner=0.5)
NUM_STEPS = 6_000


def loss(params, episode):
    logits = model.apply({"params": params}, episode.prompt)
    right = (logits.argmax(-1) == episode.y_query.argmax(-1)).mean()
    return optax.softmax_cross_entropy(logits, episode.y_query).mean(), {"accuracy": right}


several = data.FewShot(way=WAY, shot=1, queries=8, num_tasks=4, rotations=True)
sample = functools.partial(data.few_shot, config=several, images=arrays)
schedule = optax.warmup_cosine_decay_schedule(0.0, 5e-4, 100, NUM_STEPS)
optimizer = optax.adam(schedule)
state = train.init_state(
    lambda key: model.init(key, shown.prompt)["params"], optimizer, jax.random.key(0)
)
result = train.fit(
    train.make_step(loss, optimizer),
    state,
    sample,
    train.LoopConfig(NUM_STEPS, steps_per_call=250),
)
params = result.state.params

plt.plot(result.history["step"], 100 * result.history["accuracy"])
plt.xlabel("step")
plt.ylabel("accuracy on training episodes, %")
plt.show()

# %%
many = data.FewShot(way=WAY, shot=1, queries=4, num_tasks=200)
prompt, answers = data.few_shot(jax.random.key(1), many, unseen_arrays)
logits = jax.jit(lambda p: model.apply({"params": params}, p))(prompt)
accuracy = (logits.argmax(-1) == answers.argmax(-1)).mean()
print(f"{100 * accuracy:.1f}% on letters of scripts it has never seen (chance is 20%)")

# %% [markdown]
# ## Draw five symbols
#
# Strokes are lists of points between 0 and 1. In Colab, set `BY_HAND = True` and draw them with the
# mouse: five symbols, then one of them again.

# %%
BY_HAND = False

SYMBOLS = {
    "house": [[(0.2, 0.85), (0.2, 0.45), (0.5, 0.15), (0.8, 0.45), (0.8, 0.85), (0.2, 0.85)]],
    "arrow": [[(0.15, 0.5), (0.85, 0.5)], [(0.6, 0.25), (0.85, 0.5), (0.6, 0.75)]],
    "wave": [[(0.1, 0.5), (0.25, 0.25), (0.42, 0.6), (0.58, 0.35), (0.75, 0.7), (0.9, 0.4)]],
    "fork": [[(0.5, 0.9), (0.5, 0.5)], [(0.25, 0.15), (0.3, 0.5), (0.7, 0.5), (0.75, 0.15)]],
    "ladder": [[(0.3, 0.1), (0.3, 0.9)], [(0.7, 0.1), (0.7, 0.9)], [(0.3, 0.35), (0.7, 0.35)]]
    + [[(0.3, 0.65), (0.7, 0.65)]],
}
# Drawn again by somebody else: smaller, slanted, a bit lower.
SIXTH = [[(0.2, 0.6), (0.7, 0.45)], [(0.5, 0.3), (0.7, 0.45), (0.6, 0.68)]]

PAD = """
new Promise(done => {
  const pad = document.createElement('canvas'), button = document.createElement('button');
  pad.width = pad.height = 200; pad.style.border = '1px solid'; button.textContent = 'done';
  document.body.append(pad, button);
  const strokes = []; let now = null;
  const at = e => [e.offsetX / 200, e.offsetY / 200];
  pad.onpointerdown = e => { now = [at(e)]; strokes.push(now); };
  pad.onpointermove = e => { if (!now) return; const c = pad.getContext('2d'), p = now.at(-1);
    now.push(at(e)); c.beginPath(); c.moveTo(200 * p[0], 200 * p[1]);
    c.lineTo(200 * now.at(-1)[0], 200 * now.at(-1)[1]); c.stroke(); };
  pad.onpointerup = () => { now = null; };
  button.onclick = () => { pad.remove(); button.remove(); done(strokes); };
})
"""
if BY_HAND:
    from google.colab import output  # type: ignore[import-not-found]

    SYMBOLS = {f"symbol {k + 1}": output.eval_js(PAD) for k in range(WAY)}
    SIXTH = output.eval_js(PAD)


def drawing(strokes):
    """Strokes as an image from -1 to 1, flat, as an episode has them."""
    large = Image.new("L", (8 * SIZE, 8 * SIZE))
    for stroke in strokes:
        points = [(8 * SIZE * x, 8 * SIZE * y) for x, y in stroke]
        ImageDraw.Draw(large).line(points, 255, 10, joint="curve")
    small = np.asarray(large.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32)
    return small.reshape(-1) / 127.5 - 1


support = jnp.stack([drawing(strokes) for strokes in SYMBOLS.values()])
sixth = jnp.asarray(drawing(SIXTH))

# %% [markdown]
# ## Get a network
#
# `write` gives a plain dict of weights. `models.convnet` runs it; the transformer is not needed any
# more. It is asked about the sixth drawing beside the five, whose answers it knows.

# %%
prompt = shown.prompt._replace(x=support[None], y=jnp.eye(WAY)[None], x_query=sixth[None, None])
weights, _ = model.apply({"params": params}, prompt, method="write")
network = jax.tree.map(lambda leaf: leaf[0], weights)
size = sum(leaf.size for leaf in jax.tree.leaves(network))
writer = sum(leaf.size for leaf in jax.tree.leaves(params))
print(f"{size:,} weights, written by a transformer of {writer:,}:")
for name, layer in network.items():
    print("  ", name, {part: leaf.shape for part, leaf in layer.items()})

drawn = jnp.concatenate([support, sixth[None]]).reshape(-1, SIZE, SIZE, 1)
probabilities = jax.nn.softmax(models.convnet(network, drawn))[-1]
fig, axes = plt.subplots(1, WAY + 2, figsize=(10, 1.9), width_ratios=[1] * (WAY + 1) + [2])
for ax, (name, image) in zip(axes, zip(SYMBOLS, support, strict=True), strict=False):
    ax.imshow(image.reshape(SIZE, SIZE), cmap="gray")
    ax.set_title(name, fontsize=9)
axes[WAY].imshow(sixth.reshape(SIZE, SIZE), cmap="gray")
axes[WAY].set_title("what is this?", fontsize=9, color="C1")
for ax in axes[: WAY + 1]:
    ax.axis("off")
axes[-1].barh(list(SYMBOLS), probabilities)
axes[-1].invert_yaxis()
axes[-1].set(xlim=(0, 1), title="the network says")
fig.tight_layout()
plt.show()

# %% [markdown]
# ## What it wrote
#
# By how much do the weights change from one episode to the next, layer by layer? Those of the first
# layer hardly, as features of strokes serve all letters; the head's most.

# %%
different = data.FewShot(way=WAY, shot=1, queries=1, num_tasks=50)
prompts = data.few_shot(jax.random.key(5), different, unseen_arrays).prompt
written, _ = model.apply({"params": params}, prompts, method="write")
changes = {}
for name, layer in written.items():
    kernels = layer["kernel"]
    gaps = jnp.abs(kernels - kernels.mean(0, keepdims=True)).mean()
    changes[name] = 100 * float(gaps / jnp.abs(kernels).mean())
plt.figure(figsize=(5, 2.5))
plt.barh(list(changes), list(changes.values()))
plt.gca().invert_yaxis()
plt.xlabel("mean change between episodes, % of the weights' size")
plt.show()

# %% [markdown]
# One transformer proves nothing: `python -m experiments.hypertransformer` trains three of each
# kind and size, beside ProtoNet, MAML and a linear head with the same small network, and states
# every claim with its interval.
