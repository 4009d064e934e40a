"""Does training the weights of an average beat averaging, and does it save epochs?

Trainable weight averaging (2205.13104). Its own learning rate is tuned on validation images, and so
is that of the shorter training. The checkpoints are those of the constant rate that is best for the
last iterate; SWA, which averages them, has nothing more to tune.

Dimension key: S seeds, C learning rates, n checkpoints, D parameters, N test images.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training_trajectories import testbed
from experiments.training_trajectories.averaging_equivalence import chosen
from experiments.training_trajectories.paper import paper
from ico import lab, optim

# Learning rates of training in the span, by SGD with momentum and linear decay.
_RATES = (0.01, 0.03, 0.1, 0.3)
HEAD, TAIL, SHORT = "head", "tail", "short run, own schedule"


def _loss(params, batch, given, rate=1.0, *, unravel, model):
    """Of the network at `center + x rows`, times the learning rate."""
    weights_D = given["center"] + params["x"] @ given["rows"]
    value = testbed.batch_loss(unravel(weights_D), batch, model)
    return rate * value, {"nats": value}


def trained(run, name: str, center_SD, rows_SnD, unravel, images, labels_SN, epochs: int):
    """TWA from the center, at its best learning rate: parameters [S, ...] in the span."""
    steps = epochs * testbed.steps_per_epoch(run)
    recipe = lab.Recipe(
        steps,
        1.0,
        "sgd",
        "linear",
        tail=1.0,
        clip=None,
        momentum=0.9,
        steps_per_call=testbed.steps_per_epoch(run),
    )
    given = {
        "images": jnp.asarray(images),
        "labels": jnp.asarray(labels_SN),
        "center": center_SD,
        "rows": rows_SnD,
    }
    axes = {"images": None, "labels": 0, "center": 0, "rows": 0}
    found = lab.train(
        run,
        name,
        None,
        functools.partial(testbed.sample, batch_size=testbed.DIGITS_BATCH),
        recipe,
        loss=functools.partial(_loss, unravel=unravel, model=testbed.digit_network()),
        init=lambda key: {"x": jnp.zeros(rows_SnD.shape[1])},
        given=given,
        given_axes=axes,
        settings=jnp.asarray(_RATES),
        spec="trainable weight averaging",
    )
    points = jnp.einsum("scn,snd->scd", found.params["x"], rows_SnD) + center_SD[:, None]
    params = jax.vmap(jax.vmap(unravel))(points)
    return testbed.at_rate(params, testbed.best_rate(run, params))


def span_of(rows_nSD, kind: str):
    """Center [S, D] and rows [S, n, D], orthonormal, or centred ones of 8 bits an entry.

    The loop holds the numbers that the bytes stand for; `ico.optim.subspace` holds the bytes.
    """

    def one(checkpoints_nD):
        if kind == "orthonormal":
            span = optim.orthonormal_span(checkpoints_nD)
            return span.center, span.rows
        span = optim.centred_span(checkpoints_nD, bits=8)
        return span.center, jax.lax.map(span.combination, jnp.eye(len(checkpoints_nD)))

    return jax.vmap(one)(jnp.moveaxis(jnp.asarray(rows_nSD), 1, 0))


@paper.study("Does training the weights of an average beat averaging?")
def trained_average(run):
    """On the first half of the training's checkpoints (head) and on the second (tail)."""
    split, base, (_, c) = testbed.digits(run), testbed.constant(run), chosen(run)
    epochs = run.config.epochs
    half, extra = epochs // 2, max(1, epochs // 8)
    labels = testbed.noisy_labels(run, run.config.label_noise)
    valid_labels = np.broadcast_to(split.valid.labels, (run.num_seeds, len(split.valid.labels)))

    def scored(method, where, params, cost):
        found = testbed.measure(run, params, split.test)
        return lab.record(
            method=method, checkpoints=where, epochs=cost, loss=found["loss"], right=found["right"]
        )

    for where, rows in ((HEAD, range(1, half + 1)), (TAIL, range(half + 1, epochs + 1))):
        kept = testbed.iterates(base)[list(rows), :, c]
        ends = half if where == HEAD else epochs
        unravel = base.unravel
        at_end = testbed.from_flat(base, testbed.iterates(base)[ends, :, c])
        yield scored("last iterate", where, at_end, ends)
        yield scored("SWA", where, testbed.average_of(base, list(rows), c), ends)
        for name, kind, images, answers in (
            ("TWA", "orthonormal", split.train.pixels, labels),
            ("TWA, validation data, 8 bits", "centred", split.valid.pixels, valid_labels),
        ):
            slug = f"twa-{kind}-{where}"
            span = span_of(kept, kind)
            params = trained(run, slug, *span, unravel, images, answers, extra)
            yield scored(name, where, params, ends + extra)
    short = testbed.sgd(run, "cosine", num_steps=(half + extra) * testbed.steps_per_epoch(run))
    rates = tuple(np.multiply(run.config.digit_rates, 2.0))
    own = testbed.train_digits(run, "short-cosine", short, rates=rates)
    best = testbed.best_rate(run, own.params)
    yield scored(SHORT, "none", testbed.at_rate(own.params, best), half + extra)


def _at(method: str, where: str):
    return {"method": method, "checkpoints": where}


def _against(rival, where, own=("TWA", HEAD)):
    """TWA's mean test loss over a rival's, paired."""
    return lab.ratio("loss", method=(own[0], rival), checkpoints=(own[1], where))


claim = functools.partial(trained_average.claim, unit="ratio of test losses", kind="paper")
claim(
    "head_swa",
    "TWA on early checkpoints is a tenth below SWA on the same",
    "2205.13104, abstract",
    band=(None, 0.9),
    of=_against("SWA", HEAD),
)
claim(
    "head_long",
    "It comes within 5% of the long run at 63% of its epochs",
    "2205.13104, abstract",
    band=(None, 1.05),
    of=_against("last iterate", TAIL),
)
claim(
    "tail_swa",
    "On late checkpoints it beats SWA",
    "2205.13104, abstract",
    band=(None, 1),
    of=_against("SWA", TAIL, ("TWA", TAIL)),
)
claim(
    "short_run",
    "It beats a training of as many epochs with its own schedule",
    "ours",
    kind="ours",
    band=(None, 1),
    of=_against(SHORT, "none"),
)
claim(
    "validation_data",
    "Trained on validation data with centred rows of 8 bits it is a tenth below SWA, too",
    "2205.13104, journal version (UNVERIFIED)",
    band=(None, 0.9),
    of=_against("SWA", HEAD, ("TWA, validation data, 8 bits", HEAD)),
)
trained_average.note(
    "Head: iterates of the first half of the epochs; tail: of the second. TWA trains for an eighth "
    "of the epochs more. The form on validation data sees the images that learning rates are tuned "
    "on, which carry no label noise: it is no fair rival of the others. It is trained by SGD, "
    "as the other form is, where the journal has AdamW with a cosine."
)
trained_average.table("test loss and accuracy", lab.rows("loss", also=("right",)))
trained_average.figure(
    lab.bars("loss", x="checkpoints", color="method", ylabel="test loss, nats"),
    "Test loss on digits of the last iterate, of the mean of checkpoints (SWA), of trainable "
    "weight averaging in two forms, and of a shorter training, with 95% intervals.",
)
