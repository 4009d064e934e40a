"""Is one linear layer one gradient step? (Fig. 4A)

The paper: a trained layer of linear self-attention on constructed tokens has the loss of one step
of gradient descent at the best learning rate, and so has the model halfway between their weights.

Dimension key: S seeds, B sequences, T positions, D inputs.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import systems
from experiments.mesa_optimization.paper import paper
from ico import lab, models
from ico.algorithms import next_vector_gd

_LAYER, _STEP = "LSA-1", "one gradient step"


def gradient_descent_losses(test, other, dim: int) -> tuple[np.ndarray, float]:
    """Losses [B, T] of one gradient step at the best rate for other sequences, and the rate.

    Both on constructed tokens of parts of width `dim`; the rate by least squares in closed form.
    """
    predict, parts = jax.jit(next_vector_gd), slice(dim, 2 * dim)
    step, y = predict(other.inputs[..., parts]), other.targets
    rate = float(jnp.sum(step * y) / jnp.sum(step * step))
    error = rate * predict(test.inputs[..., parts]) - test.targets
    return np.asarray(0.5 * jnp.sum(error**2, axis=-1)), rate


@paper.study("Is one linear layer one gradient step?")
def one_layer_gd(run):
    """One linear layer, one gradient step, and the models between, on the same sequences."""
    D = run.config.dim
    trained = systems.train_constructed(run, "linear", 1)
    test, other = (systems.held_out(run, name) for name in ("test", "rate"))
    descent, rate = gradient_descent_losses(test, other, D)
    like = jax.vmap(lambda params: models.gradient_step_like(params, rate, D))(trained.params)
    step = trained.remade(like, head_dim=4 * D)
    halfway = step.remade(jax.vmap(models.average_products)(trained.params, like))
    own_S = jax.vmap(lambda params: models.gradient_step_rate(params, D))(trained.params)
    found = {
        _LAYER: systems.losses(trained, test),
        "LSA-1, scalars read off": systems.losses(systems.compressed(trained, D), test),
        "halfway": systems.losses(halfway, test),
        _STEP: descent[None],
        "one gradient step, clipped": systems.losses(step, test),
    }
    for name, loss_SBT in found.items():
        yield from systems.loss_records(name, loss_SBT, D)
    yield lab.record("by position", layer=found[_LAYER], step=found[_STEP])
    run.note(
        f"The gradient step has the rate {rate:.4f}, best on other sequences (least squares in "
        "closed form), and starts from zero; by its scalars the layer's is "
        f"{own_S.mean():.4f}."
    )


claim = functools.partial(one_layer_gd.claim, source="Fig. 4A", unit="ratio")
claim(
    "loss",
    "One trained linear layer has the loss of one gradient step at the best rate",
    band=(0.98, 1.02),
    kind="core",
    paper_value=0.993,
    of=lab.ratio("loss", learner=(_LAYER, _STEP)),
)
claim(
    "halfway",
    "So has the model halfway between the layer and the weights of a gradient step",
    band=(0.98, 1.02),
    of=lab.ratio("loss", learner=("halfway", _STEP)),
)


@claim(
    "everywhere",
    "At no position do the losses of layer and gradient step differ more (the largest of the "
    "ratios and their inverses)",
    source="Fig. 4A; by position is ours",
    band=(None, 1.02),
    kind="ours",
)
def everywhere(records):
    """At every position by itself."""
    found = records["by position"].one()
    pairs = zip(np.moveaxis(found["layer"], -1, 0), np.moveaxis(found["step"], -1, 0), strict=True)
    return lab.EveryPair(list(pairs), lambda a, b: max(a / b, b / a))


one_layer_gd.table("losses", systems.loss_rows("loss"))
one_layer_gd.note(
    systems.NOTE,
    "Clipped: the step written as weights of the layer, behind which tokens are clipped at 4. "
    "Halfway: products of weights averaged between the layer and the gradient step, which is "
    "written for the layer's heads.",
)
one_layer_gd.figure(
    systems.loss_lines(),
    "Paper, Fig. 4A. Loss by position, 1/2 |error|^2, of one trained linear layer, its reading as "
    "scalars, the model halfway between, and one gradient step at the best rate.",
    name="one_layer_gd",
)
