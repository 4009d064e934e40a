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
# # Narrowing the Focus: Learned Optimizers for Pretrained Models
#
# Kristiansen et al. 2024, [arXiv:2408.09310](https://arxiv.org/abs/2408.09310)
#
# You fine-tune the same network again and again: other data, another seed, fifty steps. Then you
# can afford to *learn* the optimizer for just that. L3RS mixes, in every layer, the directions of
# gradient descent and RMSprop, and sets the step; a small network does so, from the losses and
# norms that it sees. Here it also learns how to average its iterates, as schedule-free optimizers
# do, in place of momentum and a cosine. We train one in about a minute, watch what it does, and
# race it against tuned ones.
#
# To open this page in Colab: *File, Upload notebook*. The whole runs in a few minutes.

# %%
import dataclasses
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

from ico import data, metatrain, models, optim, train
from ico.report import style

cache = train.enable_compilation_cache()  # programs compiled once are kept

# %% [markdown]
# ## The task
#
# A small MLP is pretrained on the digits 0 to 4. To fine-tune it on 5 to 9, it gets a new head. A
# `Task` says where a training starts, what its batches and its loss are, and how it is tested.

# %%
digits = data.digit_images()
first, last = digits.of_classes(range(0, 5)), digits.of_classes(range(5, 10))
order = np.random.default_rng(0).permutation(len(last.labels))
learn, choose, test = np.split(order, [len(order) // 2, 3 * len(order) // 4])
model = models.MLPClassifier(num_classes=5)


def cross_entropy(params, batch):
    pixels, labels = batch
    logits = model.apply({"params": params}, pixels)
    return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels))


def task_on(images, rows, init, test_rows=None):
    """Batches of 16 of some rows; tested on others."""
    pixels, labels = jnp.asarray(images.pixels[rows]), jnp.asarray(images.labels[rows])
    held = None
    if test_rows is not None:
        held = jnp.asarray(images.pixels[test_rows]), jnp.asarray(images.labels[test_rows])

    def batch(key):
        chosen = jax.random.randint(key, (16,), 0, len(labels))
        return pixels[chosen], labels[chosen]

    return metatrain.Task(init, batch, cross_entropy, lambda params: cross_entropy(params, held))


def fresh(key):
    return model.init(key, jnp.zeros((1, 8, 8, 1)))["params"]


pretraining = task_on(first, slice(None), fresh)
body, losses, _ = jax.jit(
    lambda key: metatrain.run(optax.adam(3e-3), pretraining, key, num_steps=500)
)(jax.random.key(0))
print(f"pretrained: loss {losses[-50:].mean():.3f}")


def new_head(key):
    return body | {"head": fresh(key)["head"]}


fine_tuning = task_on(last, learn, new_head, test)
to_tune_by = task_on(last, learn, new_head, choose)  # tested on images that are neither

# %% [markdown]
# ## Learning the optimizer
#
# The meta-loss is measured on images that are not trained on: `meta_batch`. Its gradient with
# respect to what the optimizer knows goes by backpropagation through whole trainings of 12 to 50
# steps. Truncation and evolution strategies, plain and persistent, are one word away:
# `Estimator("persistent")`.

# %%
learner = optim.learned("l3rs", average=True)
config = metatrain.MetaConfig(
    num_steps=100,
    horizon=(12, 50),
    estimator=metatrain.Estimator("unrolled", num_tasks=8, shaping="clipped"),
    learning_rate=2e-2,
)
to_learn_by = dataclasses.replace(fine_tuning, meta_batch=task_on(last, choose, new_head).batch)
learned = metatrain.meta_train(
    metatrain.family_of(to_learn_by), learner, config, jax.random.key(1), progress=False
)
with style():
    fig, ax = plt.subplots(figsize=(6.4, 3))
    ax.plot(learned.history["step"], learned.history["loss"])
    ax.set(xlabel="outer step", ylabel="meta-loss, nats")
    plt.show()

# %% [markdown]
# ## What it does
#
# Its state holds the learning rate and the mix of every layer at the last update.

# %%
STEPS = 50
optimizer = learned.optimizer(num_steps=STEPS)


@jax.jit
def watch(key):
    keys = jax.random.split(key)

    def step(inner, t):
        inner, _ = metatrain.inner_step(
            optimizer, fine_tuning, inner, jax.random.fold_in(keys[1], t)
        )
        last = inner.opt_state.inner  # inside of the state of the average
        return inner, (last.learning_rate, last.mix[:, 1])

    inner = metatrain.begin(optimizer, fine_tuning, keys[0])
    return jax.lax.scan(step, inner, jnp.arange(STEPS))[1]


rates, rmsprop = watch(jax.random.key(2))
with style():
    fig, axes = plt.subplots(1, 2, figsize=(8.2, 3))
    for layer, name in enumerate(("first layer", "second layer", "head")):
        axes[0].plot(rates[:, layer], label=name)
        axes[1].plot(rmsprop[:, layer], label=name)
    axes[0].set(xlabel="step", ylabel="learning rate", yscale="log")
    axes[1].set(xlabel="step", ylabel="share of RMSprop", ylim=(0, 1))
    axes[0].legend(loc="lower left")
    plt.show()

# %% [markdown]
# ## The race
#
# A fair race lets the others choose: nine rates each, by runs and images of their own. Adam has a
# cosine, schedule-free AdamW needs none. All then meet the same 20 new heads and orders of batches.

# %%
tune, race = (jax.random.split(jax.random.key(seed), 20) for seed in (3, 4))


def ends(make, task, keys):
    """Test losses along the runs, one a key."""

    def one(key):
        return metatrain.run(make(), task, key, num_steps=STEPS, test_every=10)[2]

    return jax.jit(jax.vmap(one))(keys)


peers = {
    "Adam": lambda rate: optax.adam(optax.cosine_decay_schedule(rate, STEPS)),
    "schedule-free AdamW": optax.contrib.schedule_free_adamw,
}
rates = 1e-3 * 2.0 ** jnp.arange(-2, 7)
raced = {"L3RS": ends(lambda: optimizer, fine_tuning, race)}
print(f"L3RS: {raced['L3RS'][:, -1].mean():.3f}")
for name, make in peers.items():
    tuning = [ends(lambda r=r, m=make: m(r), to_tune_by, tune)[:, -1].mean() for r in rates]
    best = rates[int(jnp.argmin(jnp.stack(tuning)))]
    raced[name] = ends(lambda r=best, m=make: m(r), fine_tuning, race)
    gap = raced["L3RS"][:, -1] - raced[name][:, -1]
    print(f"{name}, rate {best:.2g}: {raced[name][:, -1].mean():.3f}; L3RS less it: "
          f"{gap.mean():.3f}, standard error {gap.std(ddof=1) / len(gap) ** 0.5:.3f}")  # fmt: skip
with style():
    fig, ax = plt.subplots(figsize=(6.4, 3))
    for name, losses in raced.items():
        ax.plot(10 * jnp.arange(1, 1 + losses.shape[1]), losses.mean(0), marker="o", label=name)
    ax.set(xlabel="step", ylabel="test loss, nats", yscale="log")
    ax.legend()
    plt.show()

# %% [markdown]
# One data set and two hand-designed optimizers are no contest. `python -m
# experiments.learned_optimizer` holds it by the rules: three tasks, eleven hand-designed
# optimizers tuned for every horizon, two other learned ones, unseen networks, other data, longer
# runs, with intervals and verdicts.
