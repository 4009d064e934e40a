"""Studies of deep models: 2, 5 and 10 linear layers, and twelve full blocks.

Dimension key: S seeds, T tasks, L layers.
"""

import functools

import numpy as np

from experiments.gd_in_context import baselines
from experiments.gd_in_context import evaluation as ev
from experiments.gd_in_context.single_layer import task_of, train_one_layer
from experiments.gd_in_context.training import Recipe, recipe_for, train_model
from ico import algorithms
from ico.models import LinearTransformer, learner, products
from ico.report import StudyResult, difference, measured, ratio, unjudged


def _recipe(context, depth: int, tied: bool) -> Recipe:
    """The authors' rates and clips by depth."""
    return recipe_for(
        context.config,
        context.config.tied_steps if tied else context.config.untied_steps,
        learning_rate=1e-3 if depth <= 3 else 5e-4,
        clip=1e-3 if depth <= 2 else 10.0,
    )


def _train(context, depth: int, tied: bool):
    task = task_of(context, batch_size=context.config.deep_batch_size)
    model = LinearTransformer(
        num_layers=depth,
        tied=tied,
        token_clip=10.0 if depth > 3 else 0.0,
        init_scale=0.002 / depth,
    )
    name = f"{depth}-{'tied' if tied else 'untied'}"
    return model, train_model(context, name, model, task, _recipe(context, depth, tied))


def _baselines(context, depth: int) -> tuple[dict, dict]:
    """Gradient descent and GD++ of so many steps, fitted: {"tied", "free"} each."""
    task = task_of(context)
    gd = baselines.fit(context, f"gd-{depth}", task, depth, plain=True)
    return gd, baselines.fit(context, f"gd_plus_plus-{depth}", task, depth)


def _baseline_losses(fitted, depth: int, tied: bool, episode):
    """Losses [L, T] of gradient descent at its best fixed rate, at the best rate for each step,
    and of GD++, with tied steps or free ones.
    """
    gd, plus = fitted
    stepwise = functools.partial(algorithms.gd, num_steps=depth, all_steps=True)
    plus_stepwise = functools.partial(algorithms.gd_plus_plus, num_steps=depth, all_steps=True)
    return (
        ev.losses(stepwise, {"rate": gd["tied"]["rate"]}, episode),
        ev.losses(stepwise, {"rate": gd["free"]["rate"]}, episode),
        ev.losses(plus_stepwise, plus["tied" if tied else "free"], episode),
    )


def deep(context) -> StudyResult:
    """Linear transformers of several depths beside gradient descent and GD++ of equal depth."""
    one, task, _ = train_one_layer(context)
    episode = ev.draw(context, "deep/test", task)
    finals = {(1, True): ev.seed_losses(one.apply, one.params, episode)}
    finals[1, False] = finals[1, True]
    table, arrays, claims, baseline = [], {}, [], {}
    wanted = [(d, True) for d in context.config.tied_depths]
    wanted += [(d, False) for d in context.config.untied_depths]
    fitted = {depth: _baselines(context, depth) for depth in sorted({d for d, _ in wanted})}
    for depth, tied in wanted:
        model, trained = _train(context, depth, tied)
        layers = ev.seed_losses(learner(model, all_layers=True), trained.params, episode)
        finals[depth, tied] = layers[:, -1]
        gd_loss, free_loss, plus_loss = _baseline_losses(fitted[depth], depth, tied, episode)
        baseline[depth, tied] = gd_loss[-1], plus_loss[-1]
        kind = "tied" if tied else "untied"
        table.append(
            {"layers": depth, "weights": kind}
            | ev.row("transformer", layers[:, -1], plus_loss[-1])
            | {
                "GD++": float(plus_loss[-1].mean()),
                "GD, one rate": float(gd_loss[-1].mean()),
                "GD, a rate a step": float(free_loss[-1].mean()),
            }
        )
        arrays |= {
            f"{depth}-{kind}/model": layers.mean(-1),
            f"{depth}-{kind}/gd": gd_loss.mean(-1),
            f"{depth}-{kind}/gd_plus_plus": plus_loss.mean(-1),
            f"{depth}-{kind}/curve/step": trained.history["step"],
            f"{depth}-{kind}/curve/loss": trained.history["loss"],
        }
        if (depth, tied) == (2, True):
            more, curve = _two_tied(
                trained, finals[2, True], gd_loss[-1], plus_loss[-1], fitted[2], episode
            )
            claims += more
            arrays |= curve
    for depth, tied, name in ((5, False, "five_untied"), (10, True, "ten_tied")):
        if (depth, tied) in finals:
            gd_loss, plus_loss = baseline[depth, tied]
            loss = finals[depth, tied]
            claims += [
                measured(f"deep.{name}_ratio", loss, plus_loss, statistic=ratio),
                measured(
                    f"deep.{name}_beats_gd",
                    gd_loss,
                    loss,
                    statistic=difference,
                    note="gradient descent with one rate for all steps, its best",
                ),
            ]
    claims += _falls_with_depth(finals)
    return StudyResult(
        claims,
        {"losses": table},
        arrays,
        [
            "GD and GD++ are fitted to their best rates by the exact expected loss, over several "
            "starts; the ratio is the transformer's loss over GD++'s."
        ],
    )


def _two_tied(trained, loss, gd_loss, plus_loss, fitted, episode):
    """Claims on two tied layers, and the cosines that they rest on."""
    gd, plus = (baseline["tied"] for baseline in fitted)
    gd_apply = functools.partial(algorithms.gd, num_steps=2)
    plus_apply = functools.partial(algorithms.gd_plus_plus, num_steps=2)
    rates = {"rate": gd["rate"]}
    to_gd = ev.likeness(trained.apply, trained.params, gd_apply, rates, episode)["cosine"]
    to_plus = ev.likeness(trained.apply, trained.params, plus_apply, plus, episode)["cosine"]
    gammas = _gamma(trained.params["block_0"])
    fitted = float(plus["gamma"])
    claims = [
        measured("deep.two_tied_loss", loss, note=f"GD++ on these tasks: {plus_loss.mean():.4f}"),
        measured("deep.two_tied_beats_gd", gd_loss, loss, statistic=difference),
        measured("deep.two_tied_closer_to_gd_plus_plus", to_plus, to_gd, statistic=difference),
        measured(
            "deep.two_tied_gamma",
            gammas[:, None] / fitted,
            note=f"fitted gamma {fitted:.4f}, read from weights {gammas.mean():.4f}",
        ),
    ]
    return claims, {"two_tied/cosine_gd": to_gd.mean(-1), "two_tied/cosine_plus": to_plus.mean(-1)}


def _gamma(block, num_outputs: int = 1) -> np.ndarray:
    """Gamma [S]: minus the mean diagonal of P W_V's x block times that of W_K^T W_Q's."""

    def mean_diagonal(w_HEE):
        diagonal = np.diagonal(np.asarray(w_HEE).sum(0))
        return diagonal[:-num_outputs].mean()

    gammas = []
    for index in range(len(block["attention"]["key"])):
        w_kq, w_pv = products(ev.seed(block, index))
        gammas.append(-mean_diagonal(w_kq) * mean_diagonal(w_pv))
    return np.array(gammas)


def _falls_with_depth(finals):
    """The smallest fall from one depth to the next, tied (1, 2, 5, 10) and untied (1, 2, 5)."""
    chains = ([(d, True) for d in (1, 2, 5, 10)], [(d, False) for d in (1, 2, 5)])
    pairs = [
        pair
        for chain in chains
        for pair in zip(chain[:-1], chain[1:], strict=True)
        if pair[0] in finals and pair[1] in finals
    ]
    if len(pairs) < 5:
        return [unjudged("deep.falls_with_depth", f"{len(pairs)} of its 5 falls measured")]
    losses = [finals[key] for pair in pairs for key in pair]
    return [ev.all_measured("deep.falls_with_depth", *losses, statistic=difference)]


def full_block(context) -> StudyResult:
    """Twelve blocks with four heads and MLPs beside GD++ of twelve steps."""
    depth = 12
    task = task_of(context, batch_size=context.config.deep_batch_size)
    model = LinearTransformer(
        num_layers=depth, num_heads=4, mlp_dim=44, token_clip=10.0, init_scale=0.02 / depth
    )
    recipe = recipe_for(
        context.config, context.config.full_block_steps, learning_rate=5e-4, clip=10.0
    )
    trained = train_model(context, "full_block", model, task, recipe)
    episode = ev.draw(context, "full_block/test", task)
    layers = ev.seed_losses(learner(model, all_layers=True), trained.params, episode)
    fitted = _baselines(context, depth)
    gd_loss, free_loss, plus_loss = _baseline_losses(fitted, depth, False, episode)
    claim = measured("full_block.ratio", layers[:, -1], plus_loss[-1], statistic=ratio)
    table = [
        ev.row("12 blocks, 4 heads, MLP", layers[:, -1], plus_loss[-1]),
        ev.row("GD++, 12 steps", plus_loss[-1]),
        ev.row("gradient descent, 12 steps of one rate", gd_loss[-1]),
        ev.row("gradient descent, 12 steps of a rate each", free_loss[-1]),
    ]
    arrays = {
        "model": layers.mean(-1),
        "gd": gd_loss.mean(-1),
        "gd_plus_plus": plus_loss.mean(-1),
        "curve/step": trained.history["step"],
        "curve/loss": trained.history["loss"],
    }
    return StudyResult([claim], {"losses": table}, arrays)
