"""Is the loss of a fixed mini-batch a parabola along its gradient, and along the path of SGD?

Dimension key: S seeds, T mini-batches (over all steps that are looked at), P points on a line,
D parameters.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training_trajectories import testbed
from experiments.training_trajectories.paper import paper
from ico import lab, probes

POINTS = 21
# What they change of `testbed.network`; the first three are looked at here, all in `one_step`.
NETWORKS: dict[str, dict[str, Any]] = {
    "ResNet, batch norm": {"norm": "batch"},
    "ResNet, group norm": {"norm": "group"},
    "ResNet, no norm": {"norm": "none"},
    "half as wide": {"norm": "batch", "widths": (8, 16)},
    "twice as wide": {"norm": "batch", "widths": (32, 64)},
    "twice as deep": {"norm": "batch", "depth": 2},
}
MAIN = "ResNet, batch norm"


@lab.once
def base(run, name=MAIN, points=2):
    """A network after plain SGD, with iterates over the stretch to each step it is looked at."""
    config = run.config
    steps = min(config.num_steps, max(config.look_at))
    at = sorted({at for step in config.look_at for at in _places(run, step, points)})
    images = testbed.looked_at(run)
    labels = np.broadcast_to(images.labels, (run.num_seeds, len(images.labels)))
    recipe = lab.Recipe(steps, config.learning_rate, "sgd", clip=None, steps_per_call=_stretch(run))
    model = testbed.network(run, **NETWORKS[name])
    slug = name.replace(", ", "-").replace(" ", "-")
    return testbed.train(
        run,
        slug,
        model,
        images.pixels,
        labels,
        recipe,
        batch_size=config.batch_size,
        record_at=at,
    )


def _stretch(run) -> int:
    """How many steps the path of SGD is followed back: a quarter of those to the first look."""
    return max(1, min(run.config.look_at) // 4)


def _places(run, step: int, points: int) -> list[int]:
    """Steps of the stretch before one, both ends included."""
    found = np.linspace(step - _stretch(run), step, points).round().astype(int)
    return np.unique(found).tolist()


def draw(run, step: int):
    """Mini-batches [num_batches, 2, B, ...] for a step; the second of each pair is the other."""
    images = testbed.looked_at(run)
    rng = np.random.default_rng([run.seed, step])
    chosen = rng.integers(0, len(images.labels), (run.config.num_batches, 2, run.config.batch_size))
    return jnp.asarray(images.pixels[chosen]), jnp.asarray(images.labels[chosen])


def along_line(model, params, direction, pair):
    """POINTS places up to twice a batch's best, and there the losses of it and of another batch.

    The sign of the direction is that in which the batch's loss falls.
    """
    batch = jax.tree.map(lambda leaf: leaf[0], pair)
    other = jax.tree.map(lambda leaf: leaf[1], pair)
    loss = functools.partial(testbed.batch_loss, batch=batch, model=model)
    slope = jax.jvp(loss, (params,), (direction,))[1]
    direction = jax.tree.map(lambda leaf: -jnp.sign(slope) * leaf, direction)
    places = jnp.linspace(0, 2, POINTS) * testbed.best_step(loss, params, direction)
    others = functools.partial(testbed.batch_loss, batch=other, model=model)
    return {
        "place": places,
        "own": probes.along(loss, params, direction, places),
        "other": probes.along(others, params, direction, places),
    }


@functools.partial(jax.jit, static_argnums=0)
def _lines(model, params_S, before_S, pairs):
    """Lines of every seed through every batch: along its gradient, and along the path so far."""

    def one(both):
        params, before = both
        path = jax.tree.map(jnp.subtract, params, before)

        def of_batch(pair):
            batch = jax.tree.map(lambda leaf: leaf[0], pair)
            gradient = jax.grad(testbed.batch_loss)(params, batch, model)
            return {
                "gradient": along_line(model, params, gradient, pair),
                "path": along_line(model, params, path, pair),
            }

        return jax.lax.map(of_batch, pairs)

    return jax.lax.map(one, (params_S, before_S))


@functools.partial(jax.jit, static_argnums=0)
def _followed(model, params_nS, pairs):
    """The loss of every batch at every iterate, [S, T, n]."""

    def one(params_n):
        def of_batch(pair):
            batch = jax.tree.map(lambda leaf: leaf[0], pair)
            return jax.lax.map(lambda p: testbed.batch_loss(p, batch, model), params_n)

        return jax.lax.map(of_batch, pairs)

    return jax.lax.map(one, jax.tree.map(lambda leaf: jnp.swapaxes(leaf, 0, 1), params_nS))


def along_iterates(run) -> tuple[np.ndarray, np.ndarray]:
    """R^2 of parabolas of fixed batches' losses over SGD's own iterates [S, T]; and one curve."""
    trained, found, curves = base(run, MAIN, POINTS), [], []
    for step in run.config.look_at:
        rows = [trained.spec["record_at"].index(at) for at in _places(run, step, POINTS)]
        flat_nSD = testbed.iterates(trained)[rows]
        params_nS = jax.vmap(lambda flat_SD: testbed.from_flat(trained, flat_SD))(flat_nSD)
        losses = np.asarray(_followed(trained.model, params_nS, draw(run, step)), float)
        places = np.linspace(-1, 0, len(rows))
        found.append(
            np.array([[probes.polynomial_fit(places, y).r2 for y in row] for row in losses])
        )
        curves.append(losses[0, :8])
    return np.concatenate(found, 1), curves[-1]


def fits(lines, whose="own"):
    """R^2 of parabola and cubic [S, T].

    A line whose least loss is where it starts (its batch's loss does not fall) has no span and is
    NaN, which no claim hides: it makes the interval not finite.
    """
    place, loss = np.asarray(lines["place"], float), np.asarray(lines[whose], float)
    shape = place.shape[:-1]
    found = {name: np.full(shape, np.nan) for name in ("r2", "cubic")}
    for at in np.ndindex(shape):
        if place[at][-1] > 0 and np.isfinite(loss[at]).all():
            for name, degree in (("r2", 2), ("cubic", 3)):
                found[name][at] = probes.polynomial_fit(place[at], loss[at], degree).r2
    return found


@paper.study("Is the loss of a fixed mini-batch a parabola along the way?")
def quadratic_batches(run):
    """Trained networks at several moments; beside them one untrained, with weights too large."""
    names = [*NETWORKS][:3] if run.config.regimes else [MAIN]
    for name in names:
        trained = base(run, name)
        found = {(where, whose): [] for where in ("gradient", "path") for whose in ("own", "other")}
        for step in run.config.look_at:
            lines = _at(run, trained, step)
            for where, whose in found:
                found[where, whose].append(fits(lines[where], whose))
                if name == MAIN and whose == "own":
                    curve = lines[where]
                    scale = np.asarray(curve["own"])[..., :1]
                    yield lab.record(
                        "curve",
                        along=where,
                        step=step,
                        place=np.linspace(0, 2, POINTS),
                        loss=(np.asarray(curve["own"]) / scale)[0, :8],
                    )
        for (where, whose), parts in found.items():
            values = {key: np.concatenate([part[key] for part in parts], 1) for key in parts[0]}
            yield lab.record(network=name, along=where, batch=whose, **values)
    r2, curves = along_iterates(run)
    yield lab.record("iterates", r2=r2)
    places = np.linspace(-1, 0, curves.shape[-1])
    yield lab.record("followed", place=places, loss=curves / curves[:, :1])
    yield lab.record(network="untrained, large", along="gradient", batch="own", **_untrained(run))


def _at(run, trained, step: int):
    now, before = (params_at(trained, at) for at in (step, step - _stretch(run)))
    return _lines(trained.model, now, before, draw(run, step))


def params_at(trained, step: int):
    """The parameters [S, ...] after so many steps."""
    row = trained.spec["record_at"].index(step)
    return testbed.from_flat(trained, testbed.iterates(trained)[row])


def _untrained(run):
    """The control that has to fail: initial weights four times as large, along the gradient."""
    keys = jax.random.split(run.key("untrained"), run.num_seeds)
    one = jnp.asarray(testbed.looked_at(run).pixels[:1])
    model = testbed.network(run, norm="none")
    params = jax.vmap(lambda key: model.init(key, one)["params"])(keys)
    large = jax.tree.map(lambda leaf: 4 * leaf, params)
    nothing = jax.tree.map(jnp.zeros_like, large)
    lines = _lines(model, large, nothing, draw(run, 0))
    return fits(lines["gradient"])


claim = functools.partial(quadratic_batches.claim, unit="median R^2")
for where, words in (("gradient", "its gradient"), ("path", "the path of SGD")):
    claim(
        where,
        f"The loss of a mini-batch along {words} is a parabola, up to twice its best step",
        "abstract",
        kind="core",
        band=(0.97, None),
        of=lab.median("r2", network=MAIN, along=where, batch="own"),
    )
claim(
    "iterates",
    "And so it is over SGD's own iterates, a stretch of them before each look",
    "abstract",
    kind="core",
    band=(0.97, None),
    of=lab.median("r2", record="iterates"),
)
claim(
    "group_norm",
    "So it is with group normalisation",
    "ours",
    kind="ours",
    band=(0.97, None),
    of=lab.median("r2", network="ResNet, group norm", along="gradient", batch="own"),
)
claim(
    "untrained",
    "Of an untrained network with weights four times as large it is not",
    "ours",
    kind="ours",
    band=(None, 0.9),
    of=lab.median("r2", network="untrained, large", along="gradient", batch="own"),
)
quadratic_batches.table(
    "R^2 of parabola and cubic",
    lab.grid("r2", rows=("network", "along"), columns="batch"),
)
quadratic_batches.figure(
    lab.lines(
        "place",
        "loss",
        record="curve",
        panel="along",
        color="step",
        xlabel="step / best step",
        ylabel="loss / loss at the start",
    ),
    "Abstract. Losses of eight fixed mini-batches of one network (thin lines) and their mean along "
    "their gradients and along the path of SGD, after as many steps as the colours say.",
)
quadratic_batches.figure(
    lab.lines(
        "place",
        "loss",
        record="followed",
        xlabel="iterates, from the first of the stretch (-1) to the last (0)",
        ylabel="loss / loss at the first",
    ),
    "Losses of eight fixed mini-batches over SGD's own iterates, a stretch of them before the last "
    "look, and their mean.",
    name="quadratic_iterates",
)
