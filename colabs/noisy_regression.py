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
# # Linear transformers are versatile in-context learners
#
# Vladymyrov et al. 2024, [arXiv:2402.14180](https://arxiv.org/abs/2402.14180)
#
# Every regression problem comes with noise of its own, and nobody says how much. How should the
# answer be shrunk? Ridge regression with the right noise level is optimal; a *linear* transformer,
# which can do nothing but add and multiply, comes close to it after a few layers. We check the
# theorem that says what such a model is at all, train some, and look at how they do it.
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

import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from experiments.noisy_regression.ridge_tuning import tune_ridge
from ico import algorithms, models, tasks, train
from ico.report import style

cache = train.enable_compilation_cache()  # programs compiled once are kept

# %% [markdown]
# ## The theorem
#
# Tokens are pairs $e_i = (x_i, y_i)$, the query is $(x_q, 0)$, and a layer adds
# $\sum_h P_h \left(\sum_i e_i e_i^\top\right) Q_h e$ to every token $e$. Theorem 4.1: whatever the
# weights, after every layer $x_i = M x_i^0 + y_i^0 u$ and $y_i = a y_i^0 - \langle w, x_i^0
# \rangle$, with $M, u, a, w$ the same for all tokens of the context. So the model *is* a linear
# model with weights $w$, which each layer changes. `implicit_model` gives it in closed form, from
# sums over the context. Here for random weights, beside attention over the tokens:

# %%
episode = tasks.noisy_regression(jax.random.key(0), tasks.NoisyRegression(batch_size=256))
random = models.LinearTransformer(num_layers=3, num_heads=2, init_scale=0.1)
params = random.init(jax.random.key(1), episode.prompt)["params"]
attention = random.apply({"params": params}, episode.prompt, all_layers=True)

p, q = models.stacked_products(params)
implicit = algorithms.implicit_model(p, q, algorithms.statistics(episode.prompt))
linear = jnp.einsum("bqd,lbd->lbq", episode.prompt.x_query, implicit.w[1:])[..., None]
for layer, (one, other) in enumerate(zip(attention, linear, strict=True), 1):
    error = jnp.abs(one - other).max() / jnp.abs(one).max()
    print(
        f"layer {layer}: largest prediction {jnp.abs(one).max():.1e}, difference {error:.0e} of it"
    )

# %% [markdown]
# ## A table
#
# *DIAG* has diagonal $P$ and $Q$: four numbers a layer. *GD++* has two of them, which makes it
# gradient descent with a curvature correction. Noise is uniform up to 5. The loss is the excess
# over the oracle that knows the noise, $\frac12 |w - w_{oracle}|^2$. Ridge regression with one
# tuned strength for all problems is *ConstRR*; *AdaRR* estimates the noise in each problem, and
# *TunedRR* corrects this estimate by two tuned numbers.
#
# We train five seeds of each model side by side, much shorter than the experiment does, and take
# the best of them on contexts that are used for nothing else.

# %%
STEPS, SEEDS, NOISE = 1500, 5, 5.0
task = tasks.NoisyRegression(batch_size=256, noise=NOISE)
# What acts through four numbers does not mind a turn of the inputs: contexts are drawn in their
# own eigenvectors, which is a good deal cheaper.
spectra = jnp.asarray(tasks.wishart_spectra(jax.random.key(2), task, 65_536))
sample = functools.partial(tasks.spectral_context, spectra=spectra, config=task)


def excess(w, statistics, sigma):
    """How far weights are above the oracle that knows the noise, a number a problem."""
    oracle = algorithms.ridge_weights(statistics, sigma**2)
    return 0.5 * jnp.sum((w - oracle) ** 2, axis=1)


def trained(model):
    """Parameters of all seeds, a leading axis."""

    def loss(params, context):
        sigma = task.sigma(context.u)
        statistics = context.at(sigma)
        w = model.apply({"params": params}, statistics, method="weights")
        # Every layer cubes what it is given: early on a context may be far off, and alone decide.
        return jnp.mean(100 * jnp.log1p(excess(w, statistics, sigma) / 100)), {}

    def init(key):
        return model.init(key, sample(key).at(jnp.ones(256)), method="weights")["params"]

    rate = optax.warmup_cosine_decay_schedule(0.0, 0.005, STEPS // 10, STEPS)
    optimizer = optax.chain(optax.clip_by_global_norm(0.3), optax.adam(rate))
    state = train.init_state(init, optimizer, jax.random.split(jax.random.key(3), SEEDS))
    step = train.make_step(loss, optimizer)
    config = train.LoopConfig(STEPS, steps_per_call=100)
    return train.fit(step, state, sample, config, progress=False).state.params


def drawn(seed, count=20_000):
    """Contexts and their noise."""
    big = tasks.NoisyRegression(count, noise=NOISE)
    context = jax.jit(tasks.noisy_context, static_argnums=1)(jax.random.key(seed), big)
    return context, big.sigma(context.u)


def best(model, params):
    """The best seed's parameters, on contexts that are used for nothing else."""
    context, sigma = drawn(4)
    statistics = context.at(sigma)

    @jax.vmap
    def loss(params):
        w = model.apply({"params": params}, statistics, method="weights")
        return excess(w, statistics, sigma).mean()

    return jax.tree.map(lambda leaf: leaf[jnp.argmin(loss(params))], params)


found = {}
for name, make, depth in (
    ("GD++, 4 layers", models.GdPlusPlusLinearTransformer, 4),
    ("DIAG, 1 layer", models.DiagonalLinearTransformer, 1),
    ("DIAG, 2 layers", models.DiagonalLinearTransformer, 2),
    ("DIAG, 4 layers", models.DiagonalLinearTransformer, 4),
):
    model = make(num_layers=depth, init_scale=0.03)
    found[name] = model, best(model, trained(model))

# %%
tuned = tune_ridge(tasks.NoisyRegression(noise=NOISE), num_tasks=20_000)
rivals = {
    "ConstRR": lambda s: algorithms.ridge_weights(s, tuned.constant["noise_variance"]),
    "AdaRR": lambda s: algorithms.adaptive_ridge_weights({}, s, task.num_context),
    "TunedRR": lambda s: algorithms.adaptive_ridge_weights(tuned.tuned, s, task.num_context),
}
rivals |= {
    name: functools.partial(model.apply, {"params": params}, method="weights")
    for name, (model, params) in found.items()
}
context, sigma = drawn(5)
for name, weights in rivals.items():
    loss = excess(weights(context.at(sigma)), context.at(sigma), sigma)
    print(f"{name:15} {loss.mean():.3f} +- {1.96 * loss.std() / len(loss) ** 0.5:.3f}")

# %% [markdown]
# The same at each noise level by itself. One strength for all is right at one level; an estimate
# from twenty pairs is poor where noise is strong. GD++ can only do what ConstRR does; DIAG adapts.

# %%
levels = np.linspace(0, 6, 13)
with style():
    fig, ax = plt.subplots()
    for name in ("ConstRR", "AdaRR", "TunedRR", "GD++, 4 layers", "DIAG, 4 layers"):
        weights = jax.jit(rivals[name])
        curve = []
        for level in levels:
            at = jnp.full(len(sigma), level)
            curve.append(excess(weights(context.at(at)), context.at(at), at).mean())
        ax.plot(levels, curve, "--" if name.endswith("RR") else "-", label=name)
    ax.axvline(NOISE, color="gray", lw=1, ls=":")
    ax.set(xlabel="noise (trained up to 5)", ylabel="excess over the oracle", yscale="log")
    ax.set_ylim(bottom=1e-3)  # without noise the ridges have no loss at all
    ax.legend()
    plt.show()

# %% [markdown]
# ## How it does it
#
# A layer of DIAG adds to $w$ a gradient step (through $w_{yx}$) and what the paper reads as
# momentum (through $w_{xy}$, which writes labels into the inputs), and rescales it (through
# $w_{yy}$, by the size of the residuals: the noise). Leave one out, without training again; and
# see how far the model goes along the least-squares solution: the noisier the context, the
# shorter.

# %%
model, params = found["DIAG, 4 layers"]
scalars = model.apply({"params": params}, method="scalars")


def weights_of(scalars):
    return algorithms.diagonal_weights(scalars, context.at(sigma))


print(f"nothing left out {excess(weights_of(scalars), context.at(sigma), sigma).mean():.3f}")
for name in ("yy", "xy", "xx"):
    less = scalars._replace(**{name: jnp.zeros_like(getattr(scalars, name))})
    loss = excess(weights_of(less), context.at(sigma), sigma)
    print(f"without w_{name}     {loss.mean():.3g}")

steps = {"DIAG, 4 layers": [], "GD++, 4 layers": [], "oracle": []}
for level in levels:
    statistics = context.at(jnp.full(len(sigma), level))
    ols = algorithms.ridge_weights(statistics, 0.0)
    for name, values in steps.items():
        known = functools.partial(algorithms.ridge_weights, noise_variance=level**2)
        w = rivals.get(name, known)(statistics)
        values.append(jnp.sum(w * ols) / jnp.sum(ols**2))
with style():
    fig, ax = plt.subplots()
    for name, values in steps.items():
        ax.plot(levels, values, "k--" if name == "oracle" else "-", label=name)
    ax.set(xlabel="noise", ylabel="step along least squares")
    ax.legend()
    plt.show()

# %% [markdown]
# **Further.** Seven layers, full matrices, other noises, real tables and the verdicts on every
# claim: `python -m experiments.noisy_regression`.
