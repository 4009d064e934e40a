"""What do 2, 5 and 10 layers learn: gradient descent or GD++? (Figs. 3 and 7, A.10)

The paper: deep linear models do better than gradient descent of as many steps, as GD++ does, which
also corrects the curvature of its inputs by a parameter gamma.

Dimension key: S seeds, T tasks, L layers, M contexts, D inputs.
"""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ico
from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD, SEEDS
from ico import algorithms, lab, report
from ico.models import LinearTransformer, gd_plus_plus_gamma, learner

MODEL, GD_PLUS_PLUS, GD_FREE = "transformer", "GD++", "gradient descent, a rate a step"
SHOWN = [MODEL, GD, GD_PLUS_PLUS]


@paper.study("What do 2, 5 and 10 layers learn: gradient descent or GD++?")
def deep(run):
    """Linear transformers of several depths beside gradient descent and GD++ of equal depth."""
    episode = regression.draw(run, "deep/test")
    wanted = [(depth, "tied") for depth in run.config.tied_depths]
    wanted += [(depth, "untied") for depth in run.config.untied_depths]
    one = ico.compare({MODEL: regression.trained_layer(run)}, episode).losses[MODEL]
    for sharing in ("tied", "untied"):
        if (1, sharing) not in wanted:
            yield lab.record(depth=1, weights=sharing, learner=MODEL, loss=one)
    for depth, sharing in wanted:
        trained = _train(run, depth, sharing == "tied")
        rates = best_rates(run, depth, sharing == "tied")
        model = {"depth": depth, "weights": sharing, "model": f"{depth} {sharing} layers"}
        yield from beside_algorithms(trained, rates, episode, **model)
        if (depth, sharing) == (2, "tied"):
            yield from _two_tied(run, trained, rates, episode)
    run.note(
        "GD and GD++ are fitted to their best rates by the exact expected loss, over several "
        "starts; the ratio is a learner's loss over GD++'s."
    )


def _train(run, depth: int, tied: bool) -> lab.Trained:
    """The authors' learning rates and clips by depth."""
    clip, scale = 10.0 if depth > 3 else 0.0, 0.002 / depth
    model = LinearTransformer(num_layers=depth, tied=tied, token_clip=clip, init_scale=scale)
    recipe = regression.recipe(
        run,
        run.config.tied_steps if tied else run.config.untied_steps,
        learning_rate=1e-3 if depth <= 3 else 5e-4,
        clip=1e-3 if depth <= 2 else 10.0,
    )
    name = f"{depth}-{'tied' if tied else 'untied'}"
    return lab.train(run, name, model, regression.deep_sampler(run), recipe)


def best_rates(run, depth: int, tied: bool) -> dict:
    """Fitted parameters of the algorithms that a model is compared with, one step a layer.

    Gradient descent with one rate for all steps and with one for each, and GD++ with a rate and a
    gamma for all steps (`tied`) or for each.
    """
    descent = fit_rates(run, f"gd-{depth}", depth, plain=True)
    plus = fit_rates(run, f"gd_plus_plus-{depth}", depth)
    return {
        GD: {"rate": descent["tied"]["rate"]},
        GD_FREE: {"rate": descent["free"]["rate"]},
        GD_PLUS_PLUS: plus["tied" if tied else "free"],
    }


def fit_rates(run, name: str, depth: int, *, plain: bool = False) -> dict:
    """`algorithms.best_rates` on `fit_contexts` contexts, chosen on as many others. Kept."""
    count = run.config.fit_contexts
    task = regression.task_of(run, batch_size=count)

    def fit(folder):
        fit_key, start_key = jax.random.split(run.key(f"baselines/{name}"))
        episode = jax.jit(regression.sampler_of(task))(fit_key)
        others = regression.draw(run, f"baselines/{name}/choice", count=count)
        apply = functools.partial(algorithms.gd_plus_plus, num_steps=depth)
        return algorithms.best_rates(
            jnp.asarray(algorithms.gram_eigenvalues(episode.prompt.x), jnp.float32),
            depth,
            lambda params: ico.compare({name: (apply, params)}, others).losses[name].mean(),
            start_key,
            num_context=task.num_context,
            input_variance=task.input_range**2 / 12,
            plain=plain,
            num_updates=run.config.fit_steps,
        )

    spec = {"task": task, "steps": depth, "plain": plain, "updates": run.config.fit_steps}
    return run.kept(name, spec, fit)


def beside_algorithms(trained: lab.Trained, rates: dict, episode, **axes):
    """Records of a model and of the algorithms: final losses, by layer, and while training."""
    depth = trained.model.num_layers
    descent = functools.partial(algorithms.gd, num_steps=depth, all_steps=True)
    plus = functools.partial(algorithms.gd_plus_plus, num_steps=depth, all_steps=True)
    learners: dict[str, Any] = {
        MODEL: ico.Seeded(learner(trained.model, all_layers=True), trained.params)
    }
    for name, params in rates.items():
        learners[name] = (plus if name == GD_PLUS_PLUS else descent, params)
    found = ico.compare(learners, episode, pairs=())
    yield regression.curve(trained, **axes, learner=MODEL)
    for name in learners:
        final, by_layer = found.final(name), found.by_step(name).mean(-1)
        yield lab.record(**axes, learner=name, loss=final)
        layer = np.arange(1, depth + 1)
        yield lab.record("by layer", **axes, learner=name, layer=layer, loss=by_layer)
        if name in (GD, GD_PLUS_PLUS):
            yield regression.level(final, trained, **axes, learner=name)


def by_layer_picture(**options):
    """A picture of the losses after each layer."""
    options |= {"record": "by layer", "log": "y", "learner": SHOWN}
    return regression.along("layer", "layer (or step)", **options)


def _two_tied(run, trained, rates, episode):
    """What two tied layers are like: cosines with both algorithms, and their gamma."""
    learners = {
        MODEL: trained,
        GD: (functools.partial(algorithms.gd, num_steps=2), rates[GD]),
        GD_PLUS_PLUS: (functools.partial(algorithms.gd_plus_plus, num_steps=2), rates["GD++"]),
    }
    pairs = [(MODEL, GD), (MODEL, GD_PLUS_PLUS)]
    cosine = ico.compare(learners, episode, pairs=pairs).cosine
    gamma_S = trained.by_seed(lambda model, params: gd_plus_plus_gamma(params["block_0"]))
    fitted = float(rates[GD_PLUS_PLUS]["gamma"])
    run.note(f"Two tied layers: gamma fitted {fitted:.4f}, read from weights {gamma_S.mean():.4f}.")
    yield lab.record("two tied", to=GD, cosine=cosine[MODEL, GD])
    yield lab.record("two tied", to=GD_PLUS_PLUS, cosine=cosine[MODEL, GD_PLUS_PLUS])
    yield lab.record("gamma", ratio=gamma_S[:, None] / fitted)


_claim = functools.partial(deep.claim, source="Fig. 3a", unit="half squared error")
_claim(
    "two_tied_loss",
    "Two tied layers reach a loss of 0.100 to 0.120, where GD++ is",
    band=(0.100, 0.120),
    of=lab.mean("loss", depth=2, weights="tied", learner=MODEL),
)
_beats = functools.partial(_claim, band=(0.0, None), kind="core")
_beats(
    "two_tied_beats_gd",
    "Two tied layers beat two plain gradient steps (loss of GD minus theirs)",
    of=lab.difference("loss", depth=2, weights="tied", learner=(GD, MODEL)),
)
_beats(
    "two_tied_closer_to_gd_plus_plus",
    "Their sensitivities are closer to GD++'s than to GD's (difference of cosines)",
    unit="cosine",
    of=lab.difference("cosine", record="two tied", to=(GD_PLUS_PLUS, GD)),
)
_claim(
    "two_tied_gamma",
    "The curvature correction gamma read from their weights is the one that fits GD++ best "
    "(ratio of the two)",
    source="A.10",
    unit="ratio",
    band=(0.85, 1.15),
    of=lab.mean("ratio", record="gamma"),
)
for _depth, _sharing, _name, _ratio, _source in (
    (5, "untied", "five", "five-step GD++ with rates of its own for each step", "Fig. 3b"),
    (10, "tied", "ten", "ten-step GD++", "Fig. 7"),
):
    deep.claim(
        f"{_name}_{_sharing}_ratio",
        f"{_name.capitalize()} {_sharing} layers have the loss of {_ratio}",
        _source,
        unit="ratio",
        band=(0.9, 1.1),
        of=lab.ratio("loss", depth=_depth, weights=_sharing, learner=(MODEL, GD_PLUS_PLUS)),
    )
    _beats(
        f"{_name}_{_sharing}_beats_gd",
        f"{_name.capitalize()} {_sharing} layers are below {_name} plain gradient steps (loss of "
        "GD minus theirs)",
        source=_source,
        of=lab.difference(
            "loss",
            depth=_depth,
            weights=_sharing,
            learner=(GD, MODEL),
            note="gradient descent with one rate for all steps, its best",
        ),
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
BEST = "gradient descent at its best fixed rate and of GD++ after as many steps as there are layers"
READ = "Loss read off after each layer, beside the two algorithms after as many steps"
deep.figure(
    regression.while_training(panel="model", log="y"),
    "Paper, Figs. 3a (2 tied layers), 3b (5 untied layers, GD++ with a rate and a gamma of its own "
    "for each step) and 7 (10 tied layers); the others are beyond the paper. Loss while training, "
    f"with the losses of {BEST}. {SEEDS}",
    name="deep_training",
)
deep.figure(
    by_layer_picture(panel="model"),
    f"Paper, Figs. 3a, 3b and 7, and beyond. {READ}. {SEEDS}",
    name="deep_by_layer",
)
deep.figure(
    lab.bars("cosine", record="two tied", color="to", ylabel="cosine of sensitivities"),
    "Paper, Fig. 3a. Cosine between the derivatives by the query input of the two tied layers and "
    "of two steps of either algorithm, with 95% intervals.",
    name="deep_cosines",
)
deep.figure(
    regression.along("depth", "layers (steps)", panel="weights", log="y", learner=SHOWN),
    "Paper, Figs. 3 and 7 together. Loss after the last layer against the number of layers, beside "
    "gradient descent at its best fixed rate and GD++ of as many steps, with 95% intervals.",
    name="deep_by_depth",
)
