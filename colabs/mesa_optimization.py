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
# # Uncovering mesa-optimization algorithms in Transformers
#
# von Oswald et al. 2023, [arXiv:2309.05858](https://arxiv.org/abs/2309.05858)
#
# A model predicts the next state of a linear system, $x_{t+1} = W x_t$, and $W$ is a new
# rotation in every sequence. It can only know $W$ from the states so far: it has to learn while
# it reads. One linear attention layer takes a gradient step on the pairs $(x_{s-1}, x_s)$ seen
# so far; a *mesa layer* solves their least-squares problem outright, at every position. We
# write both by hand, train both, and look at what the mesa layer costs.
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
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import optax

from ico import layers, models, tasks, train
from ico.algorithms import constructions
from ico.report import style

cache = train.enable_compilation_cache()  # programs compiled once are kept

# %% [markdown]
# ## Two layers by hand
#
# Tokens are $(0, x_t, x_t, x_{t-1})$. With keys $x_{s-1}$, values $x_s$ and the query $x_t$, linear
# attention adds $\eta \sum_{s \le t} x_s x_{s-1}^\top x_t$: one gradient step from $W = 0$ on
# $\frac12 \sum_s |x_s - W x_{s-1}|^2$. The mesa layer adds the prediction of the regularised
# least-squares solution. Before ten states have been seen neither can know $W$; behind that, least
# squares knows it.

# %%
DIM = 10
task = tasks.Dynamics(batch_size=500, num_hidden=DIM)
sequence = jax.jit(tasks.dynamics, static_argnums=1)(jax.random.key(0), task).sequence
tokens = tasks.constructed_tokens(sequence.inputs)


def model_of(kind, **fields):
    """One layer on constructed tokens, without embedding or positions."""
    fields = {"num_heads": 1, "head_dim": DIM, "free_lam": True} | fields
    return models.SequenceTransformer(
        (kind,), 4 * DIM, DIM, embed_dim=0, position_dim=0, chunk_size=50, **fields
    )


@functools.partial(jax.jit, static_argnums=0)
def losses(model, params):
    """1/2 |error|^2 by position, a mean over sequences."""
    error = model.apply({"params": params}, tokens) - sequence.targets
    return 0.5 * jnp.sum(error**2, -1).mean(0)


by_hand = {
    "one gradient step": (
        model_of("linear"),
        constructions.next_vector(0.031, num_inputs=DIM),
    ),
    "least squares": (
        model_of("mesa"),
        constructions.next_vector(num_inputs=DIM, lam=1e3),
    ),
}
for name, (model, params) in by_hand.items():
    loss = losses(model, params)
    print(f"{name:18} mean loss {loss.mean():.3f}, at the last position {loss[-1]:.4f}")

# %% [markdown]
# ## Two layers trained
#
# Now from small random weights, on nothing but next-state prediction, two heads each.

# %%
STEPS = 600


def trained(kind):
    """A model and its parameters."""
    model = model_of(kind, num_heads=2, head_dim=2 * DIM, init_std=2e-4, free_lam=False)
    small = tasks.Dynamics(batch_size=32, num_hidden=DIM)

    def draw(key):
        drawn = tasks.dynamics(key, small).sequence
        return drawn._replace(inputs=tasks.constructed_tokens(drawn.inputs))

    def loss(params, batch):
        prediction = model.apply({"params": params}, batch.inputs)
        return jnp.mean(tasks.half_squared_error(prediction, batch.targets)), {}

    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adam(optax.warmup_cosine_decay_schedule(0, 3e-3, 60, STEPS)),
    )
    start = train.init_state(
        lambda key: model.init(key, tokens[:1])["params"], optimizer, jax.random.key(1)
    )
    config = train.LoopConfig(STEPS, steps_per_call=100)
    done = train.fit(train.make_step(loss, optimizer), start, draw, config, progress=False)
    return model, done.state.params


found = by_hand | {f"trained, {kind}": trained(kind) for kind in ("linear", "mesa")}
with style():
    fig, ax = plt.subplots(figsize=(7, 4))
    for name, (model, params) in found.items():
        line = "-" if name.startswith("trained") else "--"
        ax.plot(range(1, 51), losses(model, params), line, label=name)
    ax.set(xlabel="position", ylabel="half squared error", yscale="log")
    ax.legend()
    plt.show()

# %% [markdown]
# What the trained linear layer holds: products of weights, in blocks of 10 by 10 that belong to the
# parts of a token. Each is close to a number times the identity; `models.block_scalars` reads it.

# %%
model, params = found["trained, linear"]
w_kq, w_pv = models.products(params["block_0"])
with style():
    fig, axes = plt.subplots(1, 2, figsize=(7, 3.2))
    names = "keys and queries", "values and output"
    for ax, name, matrix in zip(axes, names, (w_kq, w_pv), strict=True):
        top = float(jnp.abs(matrix[0]).max())
        ax.imshow(matrix[0], cmap="RdBu_r", vmin=-top, vmax=top)
        ax.set(title=name, xticks=[], yticks=[])
        ax.grid(False)
    plt.show()

# %% [markdown]
# ## What a mesa layer costs
#
# It keeps the inverse of $\sum_s k_s k_s^\top$ beside the memory $\sum_s v_s k_s^\top$, and is
# computed a chunk at a time from matrix products. Against linear attention of the same size, and
# against solving a linear system at every position:

# %%
q, k, v = jax.random.normal(jax.random.key(3), (3, 1, 1024, 8, 64))
k = k / jnp.linalg.norm(k, axis=-1, keepdims=True)
lam = jnp.ones(8)
ways = {
    "linear attention": lambda q, k, v: layers.linear_attention(q, k, v),
    "mesa": lambda q, k, v: layers.mesa(q, k, v, lam=lam),
    "mesa, a solve a position": lambda q, k, v: layers.mesa(q, k, v, lam=lam, form="dense"),
}
seconds = {}
for name, way in ways.items():
    run = jax.jit(way)
    run(q, k, v).block_until_ready()
    started = time.perf_counter()
    run(q, k, v).block_until_ready()
    seconds[name] = time.perf_counter() - started
for name, value in seconds.items():
    print(f"{name:26} {value / seconds['linear attention']:6.1f} times linear attention")

# %% [markdown]
# The same state goes on token by token, at a cost that does not depend on what came before:

# %%
o, state = layers.mesa(q, k, v, lam=lam, return_state=True)
o, state = layers.mesa_decode(state, q[:, -1], k[:, -1], v[:, -1])
print({name: leaf.shape for name, leaf in state._asdict().items()})

# %% [markdown]
# More: `python -m experiments.mesa_optimization` measures every claim, and
# [docs/layers.md](../docs/layers.md) says which layer when.
