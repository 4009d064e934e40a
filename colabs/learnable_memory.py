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
# # Learnable memory: new tasks for a frozen vision transformer
#
# Sandler et al. 2022, [arXiv:2203.15243](https://arxiv.org/abs/2203.15243)
#
# A vision transformer has learned letters. Now it is to read digits, and Hebrew letters it has
# never seen, without forgetting anything: its weights stay as they are, and each new task brings a
# class token, a head, and a few tokens of memory that stand beside the keys and values of every
# layer. This page trains both tasks apart, reads them together in one pass, and shows that nothing
# else has changed.
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


import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from ico import data, models, train

cache = train.enable_compilation_cache()  # programs compiled once are kept

# %% [markdown]
# ## A transformer that knows letters

# %%
SIZE = 16
letters = data.letters(SIZE)
known = letters.of_groups(*(g for g in letters.all_groups if g != "HEBREW"))
hebrew = letters.of_groups("HEBREW")
vit = models.ViT(patch=4, dim=48, depth=3, num_heads=4, class_token=True)
classifier = models.ViTClassifier(len(known.names), 4, 48, 3, 4, pooling="cls")


def unit(pixels):
    return jnp.asarray(pixels, jnp.float32) / 127.5 - 1


def flat(images):
    pixels = images.pixels.reshape(-1, SIZE, SIZE, 1)
    return unit(pixels), jnp.repeat(jnp.arange(len(images.names)), images.pixels.shape[1])


def fit(loss, init, pixels, labels, optimizer, steps, count=64):
    def sample(key):
        chosen = jax.random.randint(key, (count,), 0, len(labels))
        return pixels[chosen], labels[chosen]

    state = train.init_state(init, optimizer, jax.random.key(0))
    config = train.LoopConfig(steps, steps_per_call=50)
    return train.fit(train.make_step(loss, optimizer), state, sample, config)


def cross_entropy(logits, labels):
    error = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    return error, {"accuracy": (logits.argmax(-1) == labels).mean()}


def letter_loss(params, batch):
    return cross_entropy(classifier.apply({"params": params}, batch[0]), batch[1])


result = fit(
    letter_loss,
    lambda key: classifier.init(key, jnp.zeros((1, SIZE, SIZE, 1)))["params"],
    *flat(known),
    optax.adam(optax.warmup_cosine_decay_schedule(0.0, 2e-3, 50, 1_000)),
    1_000,
)
frozen = result.state.params["vit"]
accuracy = float(np.mean(result.history["accuracy"][-1]))
print(f"{100 * accuracy:.0f}% of training letters of {len(known.names)} kinds after 1,000 steps")

# %% [markdown]
# ## Two tasks, trained apart
#
# Ten images of each class. What is trained is one small dict for each task; the transformer is an
# argument that no gradient reaches.

# %%
digits = data.digit_images().in_bytes()
enlarged = unit(digits.pixels.repeat(2, 1).repeat(2, 2)), jnp.asarray(digits.labels)
targets = {"digits": enlarged, "Hebrew": flat(hebrew)}


def parts(pixels, labels, of_class=10):
    kinds = np.asarray(labels)
    order = np.array([(kinds[:i] == kinds[i]).sum() for i in range(len(kinds))])
    few = order < of_class
    return (pixels[few], labels[few]), (pixels[~few], labels[~few])


def trained_on(way, name):
    (pixels, labels), (test_pixels, test_labels) = parts(*targets[name])

    def loss(moving, batch):
        return cross_entropy(way.logits(frozen, moving, batch[0]), batch[1])

    schedule = optax.warmup_cosine_decay_schedule(0.0, 0.1, 10, 200)
    moving = fit(
        loss, lambda key: way.init(key, frozen), pixels, labels, optax.sgd(schedule, 0.9), 200, 32
    ).state.params
    right = jax.jit(lambda x: way.logits(frozen, moving, x).argmax(-1))(test_pixels) == test_labels
    return moving, float(right.mean())


tasks, rows = {}, []
for name, (_, labels) in targets.items():
    kinds = int(labels.max()) + 1
    for label, way in (
        ("head", models.FineTuning(vit, kinds)),
        ("head, class token", models.Memory(vit, kinds, cells=0)),
        ("5 cells of memory", models.Memory(vit, kinds, cells=5)),
    ):
        moving, accuracy = trained_on(way, name)
        size = sum(leaf.size for leaf in jax.tree.leaves(moving))
        rows.append((name, label, size, accuracy))
        print(f"{name:7s} {label:18s} {size:6,} numbers trained: {100 * accuracy:.1f}%")
    tasks[name] = moving

# %% [markdown]
# ## Both in one pass, and the old answers as they were

# %%
pixels = enlarged[0][:100]
before = vit.apply({"params": frozen}, pixels)
together, tokens = models.memory_logits(vit, frozen, models.concatenate_tasks(tasks), pixels)
print(f"the transformer's own tokens change by {jnp.abs(tokens - before).max():.1e}")
for name, task in tasks.items():
    alone, _ = models.memory_logits(vit, frozen, {name: task}, pixels)
    print(f"{name}: together and alone differ by {jnp.abs(together[name] - alone[name]).max():.1e}")

mask = models.sees_mask(17, {"digits": 5, "Hebrew": 5})
fig, ax = plt.subplots(figsize=(6, 3.2))
ax.imshow(mask, cmap="Greys", aspect="auto", vmax=1.6)
ax.set(xlabel="sees", ylabel="token", title="who sees whom")
ax.set_xticks([8, 17, 18, 21, 26], ["image", "C1", "C2", "M1", "M2"])
ax.set_yticks([8, 17, 18], ["image", "C1", "C2"])
plt.show()

# %% [markdown]
# ## How much a task looks at its memory

# %%
for name, task in tasks.items():
    share = models.attention_to_memory(vit, frozen, task, pixels).mean(1)
    plt.plot(range(1, vit.depth + 1), 100 * share, "o-", label=name)
plt.axhline(100 * 5 / 23, ls=":", color="grey", label="if it did not choose")
plt.xticks(range(1, vit.depth + 1))
plt.xlabel("layer")
plt.ylabel("attention to memory, %")
plt.legend()
plt.show()

# %% [markdown]
# One transformer proves nothing: `python -m experiments.learnable_memory` has several, four
# targets, and LoRA, adapters, prompts and full fine-tuning beside it, and states every claim with
# its interval.
