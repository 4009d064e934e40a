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
# # Multi-headed distillation: learning from each other's answers
#
# Zhmoginov et al. 2022, [arXiv:2211.15774](https://arxiv.org/abs/2211.15774)
#
# Six clients have digits of their own, mostly two or three kinds of them. They exchange neither
# images nor weights: each tells its neighbours only what it answers on public images without
# labels. A first auxiliary head learns from the neighbours' main heads, a second from their first
# ones. On this page one sees how knowledge of digits that a client has never been shown arrives at
# it, head by head.
#
# To open this page in Colab: *File, Upload notebook*. The whole runs in about two minutes.

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


import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from ico import data, models, peers, train

cache = train.enable_compilation_cache()  # programs compiled once are kept

# %% [markdown]
# ## Clients and their digits
#
# Each digit belongs to two of the clients, who have nearly all of its images. A fifth of all images
# is public, and nobody uses its labels.

# %%
CLIENTS, AUX = 6, 3
images = data.digit_images().shuffled(0)
pixels = jnp.asarray(images.pixels) * 2 - 1
test = slice(0, 500)
labels = images.labels[500:]
part = peers.skewed(labels, CLIENTS, skew=200.0, primaries=2, public=0.2, seed=1)
shares = part.shares(labels)
plt.figure(figsize=(5, 2.6))
plt.imshow(shares, cmap="Blues", vmin=0, vmax=shares.max())
plt.xticks(range(10))
plt.xlabel("digit")
plt.ylabel("client")
plt.colorbar(label="share of its images")
plt.show()

# %% [markdown]
# ## One algorithm, two populations
#
# `peers_step` trains all clients under one `vmap`; with both weights at zero they learn alone. On a
# cycle each hears only the one before it.

# %%
model = models.MultiHeadClassifier(10, aux_heads=AUX, widths=(8, 16), dim=32)
apply = lambda params, x: model.apply({"params": params}, x)  # noqa: E731
optimizer = optax.adam(2e-3)
own = jnp.asarray(pixels[500:]), jnp.asarray(labels)


def batch(key, count=24):
    keys = jax.random.split(key)
    places = jax.random.randint(keys[0], (CLIENTS, count), 0, part.counts[:, None])
    chosen = jnp.take_along_axis(jnp.asarray(part.private), places, axis=1)
    public = jax.random.choice(keys[1], jnp.asarray(part.public), (count,))
    return peers.Batch(own[0][chosen], own[1][chosen], own[0][public], jnp.ones(CLIENTS, bool))


def population(graph, **fields):
    config = peers.Distillation(refresh=20, **fields)
    step = peers.peers_step([apply], optimizer, config, graph[None])
    init = lambda key: model.init(key, pixels[:1])["params"]  # noqa: E731
    state = peers.init_peers(jax.random.key(0), init, optimizer, CLIENTS)

    @jax.jit
    def several(state, first):
        def body(state, number):
            key = jax.random.fold_in(jax.random.key(1), first + number)
            (state,), _ = step([state], batch(key), key)
            return state, None

        return jax.lax.scan(body, state, jnp.arange(100))[0]

    @jax.jit
    def tested(state):
        answers = jax.vmap(lambda p: apply(p, pixels[test])[1].argmax(-1))(state.params)
        return answers == jnp.asarray(images.labels[test])  # [clients, heads, images]

    curve = []
    for hundred in range(12):
        state = several(state, 100 * hundred)
        curve.append(tested(state).mean((0, 2)))
    return np.array(curve), tested(state), state


alone, _, _ = population(peers.cycle(CLIENTS), aux_weight=0.0, embedding_weight=0.0)
cycle, right, state = population(peers.cycle(CLIENTS))
complete, _, _ = population(peers.complete(CLIENTS))

# %%
fig, axes = plt.subplots(1, 2, figsize=(10, 3.4), sharey=True)
steps = 100 * np.arange(1, 13)
for ax, curve, title in zip(
    axes, (cycle, complete), ("cycle", "everybody hears everybody"), strict=True
):
    ax.plot(steps, 100 * alone[:, 0], "k:", label="alone")
    for head in range(AUX + 1):
        name = "main head" if head == 0 else f"auxiliary head {head}"
        ax.plot(steps, 100 * curve[:, head], label=name)
    ax.set(xlabel="step", title=title)
axes[0].set_ylabel("accuracy on all digits, %")
axes[1].legend(fontsize=8)
plt.show()

# %% [markdown]
# ## What arrived at one client
#
# The first client's answers digit by digit: on the digits it has, its main head is enough; of the
# others each head knows more than the one before it.

# %%
of_digit = np.array(
    [
        [right[0, head][images.labels[test] == d].mean() for d in range(10)]
        for head in range(AUX + 1)
    ]
)
fig, axes = plt.subplots(2, 1, figsize=(6, 3), sharex=True, height_ratios=[1, 3])
axes[0].imshow(shares[:1], cmap="Blues", aspect="auto")
axes[0].set(yticks=[0], yticklabels=["its images"])
axes[1].imshow(of_digit, cmap="Greens", vmin=0, vmax=1, aspect="auto")
axes[1].set(
    yticks=range(AUX + 1),
    yticklabels=["main head", *(f"auxiliary head {h}" for h in range(1, AUX + 1))],
    xticks=range(10),
    xlabel="digit",
)
plt.show()

# %% [markdown]
# ## What it costs
#
# A message is what a client answers on a batch of public images. It does not grow with the network;
# in federated averaging the whole network travels.

# %%
one = jax.tree.map(lambda leaf: leaf[0], state.params)
said = peers.message_bytes(peers.message(apply, one, own[0][:24]))
size = sum(leaf.size for leaf in jax.tree.leaves(one))
print(f"a message: {said:,} bytes; this network: {4 * size:,}; one of a million: 4,000,000")

# %% [markdown]
# One population proves nothing: `python -m experiments.multihead_distillation` trains eight clients
# on Fashion-MNIST with several seeds, beside federated averaging and other rivals, and states every
# claim with its interval.
