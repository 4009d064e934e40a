"""What do 2, 5 and 10 layers learn: gradient descent or GD++? (Figs. 3 and 7, A.10)

The paper: deep linear models do better than gradient descent of as many steps, as GD++ does, which
also corrects the curvature of its inputs by a parameter gamma.

Dimension key: S seeds, T tasks, L layers.
"""

import functools
import itertools

import numpy as np

import ico
from experiments.gd_in_context import baselines
from experiments.gd_in_context.paper import (
    GD,
    LAYER,
    LOSS,
    SEEDS,
    STEP,
    curve,
    draw,
    looks,
    paper,
    recipe,
    sampler_of,
    task_of,
    trained_layer,
)
from ico import algorithms, lab, report
from ico.models import LinearTransformer, learner, products

MODEL, GD_PLUS_PLUS, GD_FREE = "transformer", "GD++", "gradient descent, a rate a step"


@paper.study("What do 2, 5 and 10 layers learn: gradient descent or GD++?")
def deep(run):
    """Linear transformers of several depths beside gradient descent and GD++ of equal depth."""
    episode = draw(run, "deep/test", task_of(run))
    wanted = [(depth, "tied") for depth in run.config.tied_depths]
    wanted += [(depth, "untied") for depth in run.config.untied_depths]
    one = ico.compare({MODEL: trained_layer(run)}, episode).losses[MODEL]
    for sharing in ("tied", "untied"):
        if (1, sharing) not in wanted:
            yield lab.record(depth=1, weights=sharing, learner=MODEL, loss=one)
    for depth, sharing in wanted:
        model, trained = _train(run, depth, sharing == "tied")
        rates = best_rates(run, depth, sharing == "tied")
        yield from beside_algorithms(model, trained, rates, episode, depth=depth, weights=sharing)
        yield curve(trained, depth=depth, weights=sharing)
        if (depth, sharing) == (2, "tied"):
            yield _two_tied(trained, rates, episode)
    run.note(
        "GD and GD++ are fitted to their best rates by the exact expected loss, over several "
        "starts; the ratio is a learner's loss over GD++'s."
    )


def _train(run, depth: int, tied: bool):
    """The authors' learning rates and clips by depth."""
    model = LinearTransformer(
        num_layers=depth,
        tied=tied,
        token_clip=10.0 if depth > 3 else 0.0,
        init_scale=0.002 / depth,
    )
    how = recipe(
        run,
        run.config.tied_steps if tied else run.config.untied_steps,
        learning_rate=1e-3 if depth <= 3 else 5e-4,
        clip=1e-3 if depth <= 2 else 10.0,
    )
    sampler = sampler_of(task_of(run, batch_size=run.config.deep_batch_size))
    name = f"{depth}-{'tied' if tied else 'untied'}"
    return model, lab.train(run, name, model, sampler, how)


def best_rates(run, depth: int, tied: bool) -> dict:
    """Fitted parameters of the algorithms that a model is compared with, one step a layer.

    Gradient descent with one rate for all steps and with one for each, and GD++ with a rate and a
    gamma for all steps (`tied`) or for each.
    """
    descent = baselines.fit(run, f"gd-{depth}", task_of(run), depth, plain=True)
    plus = baselines.fit(run, f"gd_plus_plus-{depth}", task_of(run), depth)
    return {
        GD: {"rate": descent["tied"]["rate"]},
        GD_FREE: {"rate": descent["free"]["rate"]},
        GD_PLUS_PLUS: plus["tied" if tied else "free"],
    }


def beside_algorithms(model, trained, rates: dict, episode, **axes):
    """Records of the losses of a trained model and of the algorithms: at the end, and by layer."""
    depth = model.num_layers
    descent = functools.partial(algorithms.gd, num_steps=depth, all_steps=True)
    plus = functools.partial(algorithms.gd_plus_plus, num_steps=depth, all_steps=True)
    learners = {MODEL: ico.Seeded(learner(model, all_layers=True), trained.params)}
    for name, params in rates.items():
        learners[name] = (plus if name == GD_PLUS_PLUS else descent, params)
    found = ico.compare(learners, episode, pairs=())
    for name in learners:
        by_layer = found.by_step(name).mean(-1)
        yield lab.record(**axes, learner=name, loss=found.final(name), by_layer=by_layer)


def _two_tied(trained, rates, episode):
    """What two tied layers are like: cosines with both algorithms, and their gamma."""
    learners = {
        MODEL: trained,
        GD: (functools.partial(algorithms.gd, num_steps=2), rates[GD]),
        GD_PLUS_PLUS: (functools.partial(algorithms.gd_plus_plus, num_steps=2), rates["GD++"]),
    }
    pairs = [(MODEL, GD), (MODEL, GD_PLUS_PLUS)]
    cosine = ico.compare(learners, episode, pairs=pairs).cosine
    gamma_S = np.array([gamma(trained.seed(s)["block_0"]) for s in range(trained.num_seeds)])
    fitted = float(rates[GD_PLUS_PLUS]["gamma"])
    return lab.record(
        "two tied",
        cosine_with_gd=cosine[MODEL, GD],
        cosine_with_gd_plus_plus=cosine[MODEL, GD_PLUS_PLUS],
        gamma_ratio=gamma_S[:, None] / fitted,
    )


def gamma(block, num_outputs: int = 1) -> np.floating:
    """GD++'s gamma in a layer: minus the mean diagonal of W_PV's x block times that of W_KQ's."""

    def mean_diagonal(w_HEE):
        return np.diagonal(np.asarray(w_HEE).sum(0))[:-num_outputs].mean()

    w_kq, w_pv = products(block)
    return -mean_diagonal(w_kq) * mean_diagonal(w_pv)


deep.claim(
    "two_tied_loss",
    "Two tied layers reach a loss of 0.100 to 0.120, where GD++ is",
    "Fig. 3a",
    unit="half squared error",
    band=(0.100, 0.120),
    of=lab.mean("loss", depth=2, weights="tied", learner=MODEL),
)
deep.claim(
    "two_tied_beats_gd",
    "Two tied layers beat two plain gradient steps (loss of GD minus theirs)",
    "Fig. 3a",
    unit="half squared error",
    band=(0.0, None),
    kind="core",
    of=lab.difference("loss", depth=2, weights="tied", learner=(GD, MODEL)),
)
deep.claim(
    "two_tied_closer_to_gd_plus_plus",
    "Their sensitivities are closer to GD++'s than to GD's (difference of cosines)",
    "Fig. 3a",
    unit="cosine",
    band=(0.0, None),
    kind="core",
    of=lab.difference(("cosine_with_gd_plus_plus", "cosine_with_gd"), record="two tied"),
)
deep.claim(
    "two_tied_gamma",
    "The curvature correction gamma read from their weights is the one that fits GD++ best "
    "(ratio of the two)",
    "A.10",
    unit="ratio",
    band=(0.85, 1.15),
    of=lab.mean("gamma_ratio", record="two tied"),
)
deep.claim(
    "five_untied_ratio",
    "Five untied layers have the loss of five-step GD++ with rates of its own for each step",
    "Fig. 3b",
    unit="ratio",
    band=(0.9, 1.1),
    of=lab.ratio("loss", depth=5, weights="untied", learner=(MODEL, GD_PLUS_PLUS)),
)
ONE_RATE = "gradient descent with one rate for all steps, its best"
deep.claim(
    "five_untied_beats_gd",
    "Five untied layers are below five plain gradient steps (loss of GD minus theirs)",
    "Fig. 3b",
    unit="half squared error",
    band=(0.0, None),
    kind="core",
    of=lab.difference("loss", depth=5, weights="untied", learner=(GD, MODEL), note=ONE_RATE),
)
deep.claim(
    "ten_tied_ratio",
    "Ten tied layers have the loss of ten-step GD++",
    "Fig. 7",
    unit="ratio",
    band=(0.9, 1.1),
    of=lab.ratio("loss", depth=10, weights="tied", learner=(MODEL, GD_PLUS_PLUS)),
)
deep.claim(
    "ten_tied_beats_gd",
    "Ten tied layers are below ten plain gradient steps (loss of GD minus theirs)",
    "Fig. 7",
    unit="half squared error",
    band=(0.0, None),
    kind="core",
    of=lab.difference("loss", depth=10, weights="tied", learner=(GD, MODEL), note=ONE_RATE),
)


@deep.claim(
    "falls_with_depth",
    "The loss falls with depth, tied (1, 2, 5, 10) and untied (1, 2, 5): the smallest fall",
    "Figs. 2, 3 and 7",
    unit="half squared error",
    band=(0.0, None),
)
def falls_with_depth(records):
    """From one depth to the next."""
    pairs = []
    for sharing, depths in (("tied", (1, 2, 5, 10)), ("untied", (1, 2, 5))):
        models = records[""].where(learner=MODEL, weights=sharing)
        pairs += itertools.pairwise(models.one(depth=depth)["loss"] for depth in depths)
    return lab.EveryPair(pairs, report.difference)


deep.table("losses", lab.rows("loss", reference={"learner": GD_PLUS_PLUS}))

_DRAWN = {MODEL: LAYER, GD: GD, GD_PLUS_PLUS: GD_PLUS_PLUS}
CAPTION = (
    "Left: its loss while training, with the losses of gradient descent at its best fixed rate and "
    "of GD++ after as many steps as there are layers. Right: loss read off after each layer, "
    f"beside the two algorithms after as many steps. {SEEDS}"
)


def while_training_and_by_layer(records, **axes):
    """A picture of one model: its loss while training, and after each of its layers."""
    records = lab.Records(records.where(**axes)) if axes else records
    curve = records["curve"].one()
    fig, axes = report.canvas(2, height=3.8)
    left, right = axes[0]
    report.panels.seeds(left, curve["step"], curve["loss"], MODEL, **looks()[LAYER])
    for name in (GD, GD_PLUS_PLUS):
        final = records[""].one(learner=name)["loss"].mean()
        report.panels.level(left, final, name, **looks()[name])
    left.set(xlabel=STEP, ylabel=LOSS, title="while training")
    report.panels.log_y(left)
    _by_layer(right, records[""])
    right.set_title("after each layer")
    report.legend_below(fig, axes)
    return fig


def _by_layer(ax, records) -> None:
    for name, look in _DRAWN.items():
        loss = records.one(learner=name)["by_layer"]
        layers = np.arange(1, loss.shape[-1] + 1)
        report.panels.seeds(ax, layers, loss, name, **looks()[look])
    ax.set(xlabel="layer (or step)", ylabel=LOSS)
    report.panels.log_y(ax)
    report.panels.whole_x(ax)


for _depth, _sharing, _caption in (
    (2, "tied", "Paper, Fig. 3a. Two layers that share their weights."),
    (
        5,
        "untied",
        "Paper, Fig. 3b. Five layers with weights of their own; GD++ has a rate and a gamma of its "
        "own for each step.",
    ),
    (10, "tied", "Paper, Fig. 7. Ten layers that share their weights."),
):
    deep.figure(
        functools.partial(while_training_and_by_layer, depth=_depth, weights=_sharing),
        f"{_caption} {CAPTION}",
        name=f"deep_{_depth}_{_sharing}",
    )


@deep.figure(
    "Paper, Fig. 3a. Cosine between the derivatives by the query input of the two tied layers and "
    "of two steps of either algorithm, a marker a seed."
)
def cosines(records):
    """Two tied layers are closer to GD++."""
    record = records["two tied"].one()
    fig, axes = report.canvas(1)
    for place, (name, value) in enumerate(
        ((GD, "cosine_with_gd"), (GD_PLUS_PLUS, "cosine_with_gd_plus_plus"))
    ):
        report.panels.dots(axes[0, 0], place, record[value].mean(-1), **looks()[name])
    report.panels.name_places(axes[0, 0], ["with gradient descent", "with GD++"])
    axes[0, 0].set(ylabel="cosine of sensitivities")
    return fig


@deep.figure(
    "Beyond the paper: the same for other depths and ways of sharing weights. Loss read off after "
    f"each layer, beside the two algorithms after as many steps. {SEEDS}"
)
def other(records):
    """The depths and ways of sharing weights that have no figure in the paper."""
    found = [(r["depth"], r["weights"]) for r in records[""].where(learner=GD)]
    found = [one for one in found if one not in ((2, "tied"), (5, "untied"), (10, "tied"))]
    if not found:
        return None
    columns = min(3, len(found))
    fig, axes = report.canvas(columns, -(-len(found) // columns), height=3.6)
    for ax, (depth, sharing) in zip(axes.flat, found, strict=False):
        _by_layer(ax, records[""].where(depth=depth, weights=sharing))
        ax.set_title(f"{depth} {sharing} layers")
    for ax in axes.flat[len(found) :]:
        ax.set_visible(False)
    report.legend_below(fig, axes)
    return fig


deep.figure(
    lab.lines(
        "depth",
        "loss",
        color="learner",
        panel="weights",
        xlabel="layers (steps)",
        ylabel=LOSS,
        log="y",
        learner=list(_DRAWN),
    ),
    "Paper, Figs. 3 and 7 together. Loss after the last layer against the number of layers, beside "
    "gradient descent at its best fixed rate and GD++ of as many steps, with 95% intervals.",
    name="deep_by_depth",
)
