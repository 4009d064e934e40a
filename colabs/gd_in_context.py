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
# # Transformers learn in-context by gradient descent
#
# von Oswald et al. 2022, [arXiv:2212.07677](https://arxiv.org/abs/2212.07677)
#
# Show a transformer ten pairs $(x_i, y_i)$ of a regression problem and an eleventh input: it
# predicts the answer, though its weights never change. What does it compute? The paper's answer
# for *linear* self-attention: one layer takes one step of gradient descent on the ten pairs. We
# write such weights by hand, train a layer from random weights, find the same algorithm in it, and
# look where it holds and where it ends.
#
# To open this page in Colab: *File, Upload notebook*. The whole runs in under two minutes.

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
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", REPOSITORY or str(here)], check=True
    )
    import ico

import dataclasses
import functools

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from ico import algorithms, data, models, tasks, train
from ico.report import style

# %% [markdown]
# ## Attention weights that are gradient descent
#
# Tokens are pairs, $e_i = (x_i, y_i)$; the query is $e_q = (x_q, 0)$. A layer of linear attention
# adds $P \sum_i (W_V e_i)(W_K e_i)^\top W_Q e_q$. With
# $W_K = W_Q = \begin{pmatrix} I & 0 \\ 0 & 0 \end{pmatrix}$,
# $W_V = \begin{pmatrix} 0 & 0 \\ W_0 & -I \end{pmatrix}$ and $P = \frac{\eta}{N} I$ this is one
# step, of rate $\eta$, on $L(W) = \frac{1}{2N} \sum_i |W x_i - y_i|^2$ (Proposition 1). A learner
# in `ico` is any function `apply(params, prompt)`: a network and an algorithm are compared alike.

# %%
task = tasks.LinearRegression(batch_size=512)  # ten pairs, ten inputs, y = w.x, w anew in each task
test_task = dataclasses.replace(task, batch_size=4096)
draw = functools.partial(tasks.linear_regression, config=test_task)

# The best rate of one step, searched on tasks of its own.
rates = {"rate": jnp.arange(0.001, 25, 0.1)}
best, losses = algorithms.grid_search(algorithms.gd, rates, draw, jax.random.key(1))
built = algorithms.constructions.gd(best["rate"], num_context=10, num_inputs=10)

layer = models.LinearTransformer()
apply = models.learner(layer)
prompt = draw(jax.random.key(2)).prompt
difference = jnp.abs(apply(built, prompt) - algorithms.gd(best, prompt)).max()
print(f"best rate {best['rate']:.2f}, loss of one step {losses.min():.4f}")
print(f"hand-written layer and gradient descent differ by at most {difference:.1e}")

# %% [markdown]
# ## A trained layer does the same
#
# Now random weights, trained on fresh tasks at every step (Fig. 2; the authors' recipe with three
# times their learning rate, decayed). Trained and built weights are compared by what they do: loss,
# cosine between the derivatives of the prediction by the query input. Then by what they are:
# halfway between the two sets of weights lies a third model, and it is as good. From some starts
# training ends in a worse solution that uses one direction of the inputs alone; change the key
# below a few times to meet one.


# %%
def training_loss(params, episode):
    prediction = apply(params, episode.prompt)
    return tasks.half_squared_error(prediction, episode.y_query).mean(), {}


def evaluate(params):
    halfway = models.interpolate(params, built)
    return {"trained": loss_of(apply, params, test), "halfway": loss_of(apply, halfway, test)}


def loss_of(apply, params, episode):
    return tasks.half_squared_error(apply(params, episode.prompt), episode.y_query).mean()


STEPS, test = 1500, draw(jax.random.key(3))
adam = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS), b1=0.9, b2=0.98)
optimizer = optax.chain(optax.clip_by_global_norm(1e-3), adam)
result = train.fit(
    train.make_step(training_loss, optimizer),
    train.init_state(lambda key: layer.init(key, prompt)["params"], optimizer, jax.random.key(0)),
    functools.partial(tasks.linear_regression, config=task),
    train.LoopConfig(STEPS, steps_per_call=50, evaluate_every=50),
    evaluate=evaluate,
    progress=False,
)
trained, history = result.state.params, result.history

learners = {"gradient descent": (algorithms.gd, best), "trained layer": (apply, trained)}
comparison = ico.compare(learners, draw, jax.random.key(4))
for row in comparison.table():
    print(
        {name: value if isinstance(value, str) else round(value, 4) for name, value in row.items()}
    )

with style():
    fig, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6))
    left.plot(history["eval/step"], history["eval/trained"], label="trained layer")
    reached = history["eval/step"] >= 300  # before, there is nothing to be halfway to
    left.plot(
        history["eval/step"][reached],
        history["eval/halfway"][reached],
        "--",
        label="halfway to the construction",
    )
    left.axhline(loss_of(algorithms.gd, best, test), color="k", lw=1, label="one gradient step")
    left.set(xlabel="training step", ylabel="loss (half squared error)")
    left.legend()
    # Only the product of W_KQ and W_PV is determined: `normalise` fixes the scale between them.
    w_kq, _ = models.products(models.normalise(trained)["block_0"])
    image = right.imshow(w_kq[0], cmap="RdBu_r", vmin=-1.2, vmax=1.2)
    right.set(title="trained $W_K^T W_Q$, scaled: the identity on x", xticks=[], yticks=[])
    right.grid(False)
    fig.colorbar(image, ax=right)
    plt.show()

# %%
# Tasks it was never trained on: other ranges of the inputs, other scales of the weights (Fig. 2).
# Both take one fixed step, so both fail where that step is too long, and in the same way.
grid = {"input_range": np.linspace(0.5, 2, 7), "weight_scale": np.linspace(0.5, 5, 7)}
with style():
    fig, axes = plt.subplots(1, 2, figsize=(10, 3.6))
    for ax, (name, values) in zip(axes, grid.items(), strict=True):

        @jax.jit
        def both(value, name=name):
            changed = dataclasses.replace(test_task, **{name: value})
            episode = tasks.linear_regression(jax.random.key(5), changed)
            return [loss_of(f, p, episode) for f, p in learners.values()]

        curves = np.array([both(value) for value in values]).T
        for learner, curve, line in zip(learners, curves, ("-", "--"), strict=True):
            ax.plot(values, curve, line, marker="o", label=learner)
        ax.axvline(1, color="gray", lw=1, ls=":")
        ax.set(xlabel=f"{name.replace('_', ' ')} (trained at 1)", ylabel="loss", yscale="log")
        ax.legend()
    plt.show()

# %%
# Real data: scikit-learn's diabetes table, any column from the other ten. The layer adds up its
# context where gradient descent averages over it, so for N rows its update is multiplied by 10/N.
# The others' parameters are searched on other tasks from the table; the layer has seen none.
table, contexts = jnp.asarray(data.diabetes()), (10, 20, 30, 40)
searched = {
    "gradient descent, searched": (algorithms.gd, {"rate": jnp.geomspace(0.01, 25, 60)}),
    "ridge, searched": (algorithms.ridge, {"noise_variance": jnp.geomspace(1e-3, 1e3, 60)}),
}
means, errors = {}, {}
for n in contexts:
    real = tasks.Tabular(batch_size=1000, num_context=n)
    sample = jax.jit(functools.partial(tasks.tabular, table=table, config=real))
    rivals = {
        "trained layer": (apply, models.scale_updates(trained, 10 / n)),
        "zero": (lambda _, prompt: jnp.zeros((*prompt.x_query.shape[:2], 1)), None),
    }
    for name, (f, candidates) in searched.items():
        rivals[name] = (f, algorithms.grid_search(f, candidates, sample, jax.random.key(6))[0])
    found = float(rivals["gradient descent, searched"][1]["rate"])
    print(f"{n} rows: searched rate {found:.2f}, learned on made-up tasks {best['rate']:.2f}")
    for row in ico.compare(rivals, sample, jax.random.key(7), pairs=()).table():
        means.setdefault(row["learner"], []).append(row["loss"])
        errors.setdefault(row["learner"], []).append(1.96 * row["standard error"])

with style():
    fig, ax = plt.subplots()
    for name in means:
        ax.errorbar(contexts, means[name], errors[name], marker="o", capsize=3, label=name)
    ax.set(xlabel="rows in the context", ylabel="loss, with 95% interval", xticks=contexts)
    ax.set_ylim(bottom=0)
    ax.legend()
    plt.show()
# The layer learned the best step for independent inputs. Real columns are correlated, and that step
# is too long for them.

# %% [markdown]
# **Further.** Depth, GD++, softmax, token copying and the verdicts on every claim of the paper:
# `python -m experiments.gd_in_context`.
