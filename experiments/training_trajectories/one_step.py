"""What does one large step do to its own batch, and to all others?

Dimension key: S seeds, T mini-batches, R learning rates.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training_trajectories import testbed
from experiments.training_trajectories.paper import paper
from experiments.training_trajectories.quadratic_batches import (
    MAIN,
    NETWORKS,
    base,
    draw,
    params_at,
)
from ico import lab, probes, report

# Steps of the theory's test, as shares of the batch's best one.
SHARES = (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0)


@functools.partial(jax.jit, static_argnums=0)
def _effects(model, params_S, pairs, whole):
    """Of every seed and batch: losses before and after steps, and the parabolas' numbers."""

    def one(params):
        full = functools.partial(testbed.batch_loss, batch=whole, model=model)
        full_gradient = jax.grad(full)(params)

        def of_batch(pair):
            batch = jax.tree.map(lambda leaf: leaf[0], pair)
            loss = functools.partial(testbed.batch_loss, batch=batch, model=model)
            gradient = jax.grad(loss)(params)
            down = jax.tree.map(jnp.negative, gradient)
            best = testbed.best_step(loss, params, down)
            rates = best * jnp.asarray((0.0, *SHARES), jnp.float32)
            return {
                "best": best,
                "batch": probes.along(loss, params, down, rates),
                "full": probes.along(full, params, down, rates),
                "gradient_square": _dot(gradient, gradient),
                "batch_curvature": _dot(gradient, probes.hessian_product(loss, params, gradient)),
                "full_slope": _dot(gradient, full_gradient),
                "full_curvature": _dot(gradient, probes.hessian_product(full, params, gradient)),
            }

        return jax.lax.map(of_batch, pairs)

    return jax.lax.map(one, params_S)


def _dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def effects(run, name: str):
    """At the last look, of one network."""
    trained = base(run, name)
    images = testbed.looked_at(run).first(512)
    whole = jnp.asarray(images.pixels), jnp.asarray(images.labels)
    step = max(run.config.look_at)
    found = _effects(trained.model, params_at(trained, step), draw(run, step), whole)
    return jax.tree.map(lambda leaf: np.asarray(leaf, float), found)


@paper.study("What does one large step do to its own batch, and to all others?")
def one_step(run):
    """The best step of a batch after training; and the theory's prediction at eight rates."""
    names = [*NETWORKS] if run.config.regimes else [MAIN]
    at = 1 + SHARES.index(1.0)
    for name in names:
        found = effects(run, name)
        batch, full = (found[key] / found[key][..., :1] for key in ("batch", "full"))
        yield lab.record(network=name, batch=batch[..., at], full=full[..., at])
        curves = {"batch_loss": batch.mean((0, 1)), "full_loss": full.mean((0, 1))}
        yield lab.record("curve", network=name, share=np.array((0.0, *SHARES)), **curves)
        if name == MAIN:
            yield lab.record("theory", **_theory(found))


def _theory(found):
    """Rank correlations over rates of predicted and measured change, by batch, and both [S, T]."""
    rates = found["best"][..., None] * np.array(SHARES)
    numbers = (
        found[key][..., None]
        for key in ("gradient_square", "batch_curvature", "full_slope", "full_curvature")
    )
    predicted = probes.predicted_step(rates, *numbers)
    values = {}
    for whose, guess in (("batch", predicted.batch), ("full", predicted.full)):
        change = found[whose][..., 1:] - found[whose][..., :1]
        values[f"{whose}_rank"] = np.array(
            [
                [report.spearman(g, c) for g, c in zip(*row, strict=True)]
                for row in zip(guess, change, strict=True)
            ]
        )
    return values


claim = functools.partial(one_step.claim, kind="core", unit="ratio")
claim(
    "batch",
    "One step at the batch's best rate brings its loss very low",
    "abstract",
    band=(None, 0.3),
    of=lab.mean("batch", network=MAIN),
)
claim(
    "full",
    "The same step raises the loss on all images",
    "abstract",
    band=(1.05, None),
    of=lab.mean("full", network=MAIN),
)
for whose, words in (("batch", "the batch's loss"), ("full", "the loss on all images")):
    claim(
        f"theory_{whose}",
        f"The model predicts how the rate changes {words}: rank correlation over eight rates",
        "abstract",
        kind="paper",
        unit="Spearman",
        band=(0.9, None),
        of=lab.mean(f"{whose}_rank", record="theory"),
    )
one_step.note(
    "All images are 512 of the training set. Losses are with the statistics of the batch (or of "
    "the 512) where the network has batch normalisation. Rates of the theory's test are 1/8 to 3 "
    "times the batch's best."
)
one_step.table("loss of the own batch after its best step", lab.rows("batch", also=("full",)))
one_step.figure(
    lab.lines(
        "share",
        "full_loss",
        record="curve",
        color="network",
        log="y",
        xlabel="step / batch's best step",
        ylabel="loss on all images / before",
    ),
    "The loss on all images after one step along a mini-batch's gradient.",
    name="one_step_full",
)
one_step.figure(
    lab.lines(
        "share",
        "batch_loss",
        record="curve",
        color="network",
        log="y",
        xlabel="step / batch's best step",
        ylabel="loss of the batch / before",
    ),
    "Abstract. The loss of the mini-batch itself after one step along its gradient, for networks "
    "of several widths, depths and normalisations.",
    name="one_step_batch",
)
