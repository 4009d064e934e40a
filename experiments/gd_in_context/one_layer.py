"""Does one trained linear self-attention layer do one step of gradient descent?

The paper: weights that do so exactly can be written down (Proposition 1), and training finds them
(Fig. 2, section 3): equal losses, equal sensitivities, and halfway between the two sets of weights
lies a third model that is as good.

Dimension key: S seeds, T tasks, E token width.
"""

import functools

import jax
import numpy as np

import ico
from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD, LAYER, SEEDS, ZERO
from ico import lab, report
from ico.algorithms import constructions
from ico.models import construction_error, interpolate, normalise, products

HALFWAY = "halfway between"
CONSTRUCTION_TASKS = 32
SHOWN = 3  # seeds whose weights are drawn
# Panels of the picture of a training, and what is drawn in them.
CURVES = (
    ("loss", "loss", LAYER),
    ("loss", "interpolated", HALFWAY),
    ("cosine with gradient descent", "cosine", LAYER),
    ("distance to gradient descent", "sensitivity_difference", "difference of sensitivities"),
    ("distance to gradient descent", "prediction_difference", "difference of predictions"),
)


@paper.study("Does one trained linear self-attention layer do one step of gradient descent?")
def one_layer(run):
    """The construction is exact; the trained layer matches it, in function and in weights."""
    trained, descent = regression.trained_layer(run), regression.gradient_step(run)
    rate = descent[1]["rate"]
    built = constructions.gd(rate, num_context=10, num_inputs=10)
    halfway = jax.jit(jax.vmap(lambda params: interpolate(params, built)))(trained.params)
    learners = {
        GD: descent,
        LAYER: trained,
        HALFWAY: trained.remade(halfway),
        ZERO: (regression.predict_zero, {}),
    }
    yield from regression.compared(learners, regression.draw(run, "one_layer/test"), alike=(LAYER,))
    yield lab.record("closed form", loss=closed_form_losses(run, descent))
    run.note(f"One gradient step is taken at the searched rate, {float(rate):.3f}.")
    for dtype in ("float32", "float64"):
        key, sizes = run.key("construction"), {"num_tasks": CONSTRUCTION_TASKS}
        error = np.asarray(construction_error(key, dtype, **sizes))
        yield lab.record("construction", dtype=dtype, error=error)
    yield from weights(trained.params, built)
    curve_tasks = regression.draw(run, "one_layer/curve", count=run.config.curve_tasks)
    (gd,) = regression.compared({GD: descent}, curve_tasks)
    history, step = trained.history, trained.history["eval/step"]
    for place, name, of in CURVES:
        curve = {"step": step, "value": history[f"eval/{name}"].T}
        yield lab.record("curve", of=place, learner=of, **curve)
    level = np.full(len(step), gd["loss"].mean())
    yield lab.record("curve", of="loss", learner=GD, step=step, value=level)


def closed_form_losses(run, descent) -> np.ndarray:
    """Losses of one gradient step on many tasks, in pieces that fit in memory."""
    count, piece = run.config.closed_form_tasks, 100_000
    sample = regression.sampler_of(regression.task_of(run, batch_size=min(count, piece)))
    key, pieces = run.key("one_layer/closed_form"), -(-count // piece)
    loss_T = ico.compare({GD: descent}, sample, key, num_batches=pieces).losses[GD]
    # Means of eight tasks: the same mean, the same interval, an eighth of the bootstrap's work.
    return loss_T[: len(loss_T) // 8 * 8].reshape(-1, 8).mean(1)


def weights(params, built):
    """W_KQ / beta and W_PV beta of every seed [S, E, E], and their distance to construction."""
    scaled = jax.jit(jax.vmap(lambda params: products(normalise(params)["block_0"])))(params)
    for name, trained, target in zip(("kq", "pv"), scaled, products(built["block_0"]), strict=True):
        trained_SEE, target_EE = np.asarray(trained)[:, 0], np.asarray(target)[0]
        error_S = np.linalg.norm(trained_SEE - target_EE, axis=(1, 2)) / np.linalg.norm(target_EE)
        shown = np.concatenate([target_EE[None], trained_SEE])[: 1 + SHOWN]
        yield lab.record("weights", product=name, matrices=shown, error=error_S[:, None])


for _dtype, _largest, _words in (
    (
        "float32",
        1e-4,
        "The constructed weights are gradient descent: largest difference of predictions over "
        "100 steps from a random start (12 inputs, 8 outputs, 45 pairs), float32",
    ),
    ("float64", 1e-10, "The same in float64"),
):
    one_layer.claim(
        f"construction_{_dtype}",
        _words,
        "Proposition 1, A.1",
        unit="absolute difference",
        band=(None, _largest),
        kind="core",
        of=lab.exact("error", record="construction", dtype=_dtype, num_tasks=CONSTRUCTION_TASKS),
    )
_claim = functools.partial(one_layer.claim, source="Fig. 2")
_claim(
    "closed_form",
    "One gradient step at the line-searched rate has its closed-form loss, 0.2062",
    unit="half squared error",
    band=(0.2062 * 0.99, 0.2062 * 1.01),
    of=lab.mean("loss", record="closed form"),
)
_alike = functools.partial(_claim, unit="ratio", band=(0.99, 1.01))
_alike(
    "loss_ratio",
    "A trained linear self-attention layer has the loss of one gradient step",
    kind="core",
    of=lab.ratio("loss", learner=(LAYER, GD)),
)
_claim(
    "cosine",
    "Its sensitivity to the query points along that of gradient descent",
    unit="cosine",
    band=(0.99, None),
    kind="core",
    of=lab.mean("cosine", learner=LAYER),
)
_alike(
    "interpolated_ratio",
    "The model halfway between the trained and the constructed weights has that loss too",
    of=lab.ratio("loss", learner=(HALFWAY, GD)),
)
for _product, _words in (
    ("kq", "Trained W_KQ matches the construction: |W_KQ/beta - I_x| / |I_x|, Frobenius norms"),
    ("pv", "Trained W_PV matches the construction, in the same measure"),
):
    one_layer.claim(
        f"weights_{_product}",
        _words,
        "section 3",
        unit="relative error",
        band=(None, 0.1),
        kind="core",
        of=lab.mean("error", record="weights", product=_product),
    )
one_layer.table("losses", lab.rows("loss", reference={"learner": GD}, also=("cosine",)))


@one_layer.figure(
    "Paper, Fig. 2. One linear self-attention layer while it trains. Left: its loss on tasks of "
    "its own distribution, that of the model halfway between its weights and the construction, and "
    "the loss of one gradient step; the axis ends just above the trained layer's highest loss. "
    "Middle: cosine between the derivatives of layer and gradient descent by the query input, mean "
    "over tasks. Right: norm of the difference of these derivatives, and absolute difference of "
    f"the predictions. {SEEDS}"
)
def training(records):
    """Fig. 2: loss, cosine and differences while one layer trains."""
    xlabel = "training step"
    draw = lab.lines(
        "step", "value", record="curve", color="learner", panel="of", xlabel=xlabel, ylabel=" "
    )
    fig = draw(records)
    shown = records["curve"].where(of="loss", learner=[LAYER, GD])
    top = max(np.nanmax(report.panels.finite(curve["value"])) for curve in shown)
    fig.axes[0].set_ylim(0, 1.1 * top)
    fig.axes[2].set_ylim(bottom=0)
    return fig


one_layer.figure(
    lab.maps(
        "matrices",
        each=["construction", *(f"trained, seed {seed + 1}" for seed in range(SHOWN))],
        record="weights",
        low=None,
        # Around the construction, so that a seed far from it cannot hide the others.
        high=lambda matrices: 1.5 * max(np.abs(matrices[0]).max(), 1e-12),
    ),
    "Paper, section 3. The products of the trained weights, W_KQ / beta and W_PV beta (beta is the "
    "mean diagonal of W_KQ without its last entry), beside those of the construction for gradient "
    "descent. One colour scale a row, out to 1.5 times the construction's largest entry, what lies "
    "beyond in its end colours; the last row and column belong to y.",
    name="one_layer_weights",
)
