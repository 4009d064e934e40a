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
# # Training trajectories: mini-batches, averages and the learning rate
#
# Sandler et al. 2023, [arXiv:2301.02312](https://arxiv.org/abs/2301.02312)
#
# SGD goes down a valley whose floor moves at every step, because every mini-batch has a minimum of
# its own. How large the steps are decides how far from the floor it ends; averaging the points it
# visits brings it back, and does to the end point exactly what smaller steps would have done. This
# page draws that picture, checks the identity, and looks at a real network.
#
# To open this page in Colab: *File, Upload notebook*. The whole runs in under two minutes.

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

from ico import data, models, optim, probes, train
from ico.report import palette

cache = train.enable_compilation_cache()  # programs compiled once are kept

# %% [markdown]
# ## The picture
#
# A valley with curvatures 1 and 10; a mini-batch is the same valley somewhere else. On the left SGD
# after it has come down: its iterates stay in an ellipsoid around the minimum, and their mean is
# far closer to it than they are. On the right the losses of some mini-batches along their own
# gradients, from one point: every one is a parabola with its best step, and along each the loss of
# the whole valley (dashed) is least much earlier, or rises at once.

# %%
curvatures, rate, num_steps = np.array([1.0, 10.0]), 0.1, 400
rng = np.random.default_rng(0)
minima = rng.normal(size=(num_steps, 2)) * 0.5
path = [np.array([4.0, 1.5])]
for minimum in minima:
    path.append(path[-1] - rate * curvatures * (path[-1] - minimum))
path = np.array(path)

fig, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2))
a, b = np.meshgrid(np.linspace(-1.5, 4.3, 80), np.linspace(-1.7, 1.9, 80))
left.contour(a, b, np.sqrt(a**2 + 10 * b**2), 9, colors="0.8", linewidths=0.8)
left.plot(*path.T, lw=0.6, color=palette(3)[0], label="SGD")
last, mean = path[-1], path[-200:].mean(0)
left.plot(*last, "o", color=palette(3)[1], label="last iterate")
left.plot(*mean, "*", ms=13, color=palette(3)[2], label="mean of the last 200")
left.set(xlabel="flat direction", ylabel="steep direction", title="the valley")
left.legend()
steps = np.linspace(0, 0.4, 50)
for minimum, color in zip(minima[:3], palette(3), strict=True):
    gradient = curvatures * (last - minimum)
    line = last[None] - steps[:, None] * gradient[None]
    right.plot(steps, ((line - minimum) ** 2 * curvatures).sum(1) / 2, color=color)
    right.plot(steps, (line**2 * curvatures).sum(1) / 2, "--", color=color)
right.set(xlabel="step along the batch's gradient", ylabel="loss", title="its mini-batches")
plt.show()

# %% [markdown]
# In one direction the variance around the minimum is $\eta a \sigma^2 / (2 - \eta a)$:

# %%
long = [0.0]
for noise in rng.normal(size=20_000):
    long.append(long[-1] - rate * 10 * (long[-1] - 0.5 * noise))
print(f"measured {np.var(long):.4f}, predicted {probes.stationary_variance(rate, 10, 0.25):.4f}")

# %% [markdown]
# ## Averaging is a learning-rate schedule
#
# An average is a vector of weights on the iterates. `equivalent_schedule` gives the learning rates
# with which the *last* iterate of SGD is that average. For one curvature it is exact, path by path:

# %%
averages = {"EMA": optim.EMA(0.97), "SWA": optim.SWA(150), "two points": optim.TwoPoint(150)}
noise = rng.normal(size=num_steps)


def sgd(rates):
    w = [4.0]
    for rate, minimum in zip(rates, noise, strict=True):
        w.append(w[-1] - rate * 2.0 * (w[-1] - minimum))
    return np.array(w)


constant = sgd(np.full(num_steps, rate))
for name, average in averages.items():
    schedule = optim.equivalent_schedule(average, rate, num_steps, curvature=2.0)
    rates = np.array([schedule(step) for step in range(num_steps)])
    wanted = average.weights(num_steps) @ constant
    plt.plot(rates, label=f"{name}: average {wanted:.4f}, last iterate {sgd(rates)[-1]:.4f}")
plt.xlabel("step")
plt.ylabel("equivalent learning rate")
plt.legend()
plt.show()

# %% [markdown]
# ## A residual network
#
# Digits with a tenth of the labels drawn anew, plain SGD at a constant rate. One wrapper carries
# the mean of the last two hundred iterates; a `Trajectory` keeps some of the others.

# %%
images = data.digit_images().shuffled(0)
pixels, labels = jnp.asarray(images.pixels), jnp.asarray(images.labels)
test, training = slice(0, 600), slice(600, 1240)
anew = np.random.default_rng(1).random(len(labels)) < 0.1
noisy = jnp.where(anew, np.random.default_rng(2).integers(0, 10, len(labels)), labels)
model = models.SmallResNetClassifier(10, (8, 16), norm="batch")


def loss(params, batch):
    logits = model.apply({"params": params}, batch[0])
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]).mean(), {}


def sample(key):
    chosen = jax.random.randint(key, (16,), training.start, training.stop)
    return pixels[chosen], noisy[chosen]


optimizer = optim.averaged(optax.sgd(0.2), optim.SWA(200), 1200)
state = train.init_state(
    lambda key: model.init(key, pixels[:1])["params"], optimizer, jax.random.key(0)
)
trajectory = train.Trajectory((600, 1200))
result = train.fit(
    train.make_step(loss, optimizer),
    state,
    sample,
    train.LoopConfig(1200, steps_per_call=100),
    trajectory=trajectory,
)


@jax.jit
def tested(params):
    stats = models.batch_statistics(model, params, pixels[training][None])
    logits = model.apply({"params": params, "batch_stats": stats}, pixels[test])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels[test])
    return losses.mean(), (logits.argmax(-1) == labels[test]).mean()


two = trajectory.unravel(trajectory.params().mean(0))
for name, params in (
    ("last iterate", result.state.params),
    ("mean of two iterates, 600 steps apart", two),
    ("mean of the last 200", result.params),
):
    print(f"{name:38s} test loss {tested(params)[0]:.3f}, accuracy {tested(params)[1]:.3f}")

# %% [markdown]
# And its mini-batches along their gradients, scaled to the best step of each. One step takes them
# far down, but how near to a parabola they are is a question of network and moment: with batch
# normalisation, this late in a training on noisy labels, they bend most where the step begins.

# %%
params = result.state.params
for number in range(6):
    batch = sample(jax.random.key(100 + number))
    down = jax.tree.map(jnp.negative, jax.grad(lambda p, b=batch: loss(p, b)[0])(params))
    line = jax.jit(lambda s, b=batch, d=down: probes.along(lambda p: loss(p, b)[0], params, d, s))
    searched = np.geomspace(1e-3, 3, 60).astype(np.float32)
    best = searched[np.argmin(line(searched))]
    places = np.linspace(0, 2, 25, dtype=np.float32)
    values = np.asarray(line(places * best))
    fit = probes.polynomial_fit(places, values)
    plt.plot(places, values / values[0], label=f"R² of a parabola {fit.r2:.3f}")
plt.xlabel("step / best step of the batch")
plt.ylabel("loss of the batch / before")
plt.legend()
plt.show()

# %% [markdown]
# One network proves nothing: `python -m experiments.training_trajectories` trains eight of each,
# states every claim with its interval, and compares averaging with tuned schedules.
