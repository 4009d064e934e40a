"""Is averaging iterates the same as changing the learning rate?

Dimension key: S seeds, N test images, T steps, D parameters.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from experiments.training_trajectories import testbed
from experiments.training_trajectories.paper import paper
from ico import lab, optim, probes, report

# EMA over a hundred steps; SWA over the last quarter.
NAMES = ("EMA", "SWA")


def averages(num_steps: int) -> dict[str, optim.Average]:
    """By name; both fit any number of steps from eight on."""
    return {"EMA": optim.EMA(0.99), "SWA": optim.SWA(max(1, num_steps // 4))}


@lab.once
def chosen(run):
    """The learning rate that is best for the last iterate, on validation images, and which."""
    c = testbed.best_rate(run, testbed.constant(run).params)
    return run.config.digit_rates[c], c


@functools.partial(jax.jit, static_argnums=(0, 1))
def _recorded(num_steps, batch_size, params, images, labels, key, rate):
    """Averages of SGD's iterates, carried; and as the start less shares of recorded gradients."""
    start_D, unravel = ravel_pytree(params)
    kinds = (optim.EMA(0.95), optim.SWA(num_steps // 2), optim.TwoPoint(num_steps // 2))
    weights = np.stack([kind.weights(num_steps) for kind in kinds])
    shares = np.stack([optim.gradient_shares(kind, num_steps) for kind in kinds])
    weights, shares = (jnp.asarray(a, start_D.dtype) for a in (weights, shares))

    def step(carry, given):
        w_D, mean_AD, moved_AD = carry
        key, weight_A, share_A = given
        batch = testbed.sample(key, {"images": images, "labels": labels}, batch_size=batch_size)
        gradient = jax.grad(testbed.batch_loss)(unravel(w_D), batch, testbed.digit_network())
        taken_D = rate * ravel_pytree(gradient)[0]
        w_D = w_D - taken_D
        mean_AD = mean_AD + weight_A[:, None] * (w_D - start_D)[None]
        return (w_D, mean_AD, moved_AD + share_A[:, None] * taken_D[None]), None

    zero = jnp.zeros((len(kinds), start_D.size), start_D.dtype)
    keys = jax.random.split(key, num_steps)
    given = keys, weights[:, 1:].T, shares.T
    (_, mean_AD, moved_AD), _ = jax.lax.scan(step, (start_D, zero, zero), given)
    average_AD = start_D[None] + mean_AD
    error_A = jnp.linalg.norm(average_AD - (start_D[None] - moved_AD), axis=1)
    return error_A / jnp.linalg.norm(average_AD, axis=1)


def identity(run, dtype):
    """The largest relative difference of the two, over averages, of one short training."""
    images = testbed.digits(run).train
    params = testbed.digit_network().init(run.key("identity"), jnp.asarray(images.pixels[:1]))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params["params"])
    found = _recorded(
        200 if run.preset != "smoke" else 20,
        testbed.DIGITS_BATCH,
        params,
        jnp.asarray(images.pixels, dtype),
        jnp.asarray(images.labels),
        run.key("identity/batches"),
        jnp.asarray(chosen(run)[0], dtype),
    )
    return float(np.max(found))


def pathwise(run):
    """The largest relative difference of average and equivalent schedule on a noisy quadratic."""
    num_steps, rate, curvature = 500, 0.1, 1.5
    noise_TD = jax.random.normal(run.key("quadratic"), (num_steps, 200))
    start_D = jnp.full(200, 3.0)

    def last(rates_T):
        def step(w_D, given):
            rate, target_D = given
            w_D = w_D - rate * curvature * (w_D - target_D)
            return w_D, w_D

        return jax.lax.scan(step, start_D, (rates_T, noise_TD))

    _, iterates_TD = last(jnp.full(num_steps, rate))
    whole_TD = jnp.concatenate([start_D[None], iterates_TD])
    worst = 0.0
    for average in (optim.EMA(0.95), optim.SWA(100), optim.TwoPoint(100)):
        schedule = optim.equivalent_schedule(average, rate, num_steps, curvature=curvature)
        found_D, _ = last(jnp.asarray(schedule(np.arange(num_steps))))
        wanted_D = jnp.asarray(average.weights(num_steps), jnp.float32) @ whole_TD
        error = jnp.linalg.norm(found_D - wanted_D) / jnp.linalg.norm(wanted_D)
        worst = max(worst, float(error))
    return worst


def curvature(run) -> float:
    """That of the training loss along mini-batches' gradients, `g'Hg / g'g`, at the last iterate.

    The mean over sixteen batches, a rule fixed in advance, of the first seed.
    """
    _, c = chosen(run)
    params = jax.tree.map(lambda leaf: leaf[0, c], testbed.constant(run).params)
    images = testbed.digits(run).train
    labels = testbed.noisy_labels(run, run.config.label_noise)[0]
    whole = jnp.asarray(images.pixels), jnp.asarray(labels)
    model = testbed.digit_network()
    full = functools.partial(testbed.batch_loss, batch=whole, model=model)
    given = {"images": whole[0], "labels": whole[1]}

    @jax.jit
    def one(key):
        batch = testbed.sample(key, given, batch_size=testbed.DIGITS_BATCH)
        gradient = jax.grad(testbed.batch_loss)(params, batch, model)
        flat = ravel_pytree(gradient)[0]
        product = ravel_pytree(probes.hessian_product(full, params, gradient))[0]
        return flat @ product / (flat @ flat)

    keys = jax.random.split(run.key("curvature"), 16)
    return float(np.mean([one(key) for key in keys]))


@paper.study("Is averaging iterates the same as changing the learning rate?")
def averaging_equivalence(run):
    """Exact identities; then trainings: what the equivalent schedule gains of an average's gain."""
    single = identity(run, jnp.float32)
    with jax.enable_x64(True):
        double = identity(run, jnp.float64)
    numbers = {"float32": single, "float64": double, "pathwise": pathwise(run)}
    yield lab.record("identity", **{name: np.array(x) for name, x in numbers.items()})
    rate, c = chosen(run)
    last = testbed.at_rate(testbed.constant(run).params, c)
    yield lab.record(run="last iterate", average="none", **scored(run, last))
    bend = max(curvature(run), 0.0)
    run.note(f"At a learning rate of {rate:g} and a curvature of {bend:.3g}.")
    num_steps = testbed.sgd(run).num_steps
    for name, average in averages(num_steps).items():
        for kind in ("average", "schedule", "naive"):
            if kind == "average":
                recipe = testbed.sgd(run, average=average)
            else:
                bent = bend if kind == "schedule" else 0.0
                schedule = optim.equivalent_schedule(average, 1.0, num_steps, curvature=rate * bent)
                recipe = testbed.sgd(
                    run, tuple(np.asarray(schedule(np.arange(num_steps)), float).tolist())
                )
            trained = testbed.train_digits(run, f"{name}-{kind}", recipe, rates=(rate,))
            found = scored(run, testbed.at_rate(trained.params, 0))
            yield lab.record(run=kind, average=name, **found)


def scored(run, params):
    """The loss that is trained, on all training images and their labels; and that on the test's."""
    split, labels = testbed.digits(run), testbed.noisy_labels(run, run.config.label_noise)
    training = testbed.measure(run, params, split.train, labels)
    test = testbed.measure(run, params, split.test)
    return {"loss": training["loss"], "test_loss": test["loss"], "test_right": test["right"]}


def explained(kind: str, name: str):
    """The gain in training loss over the last iterate, as a share of the average's gain."""

    def measure(records):
        sides = [records[""].one(run="last iterate")["loss"]]
        sides += [records[""].one(run=k, average=name)["loss"] for k in (kind, "average")]

        def share(last, ours, averaged):
            return report.ratio(last - ours, last - averaged)

        return report.measured(*sides, statistic=share)

    return measure


claim = functools.partial(averaging_equivalence.claim, kind="core")
exactly = functools.partial(claim, unit="relative error", source="abstract; identity derived here")
exactly(
    "recorded_float32",
    "An average is the start less shares of the recorded gradients: EMA, SWA, two points",
    band=(None, 1e-6),
    of=lab.exact("float32", record="identity"),
)
exactly(
    "recorded_float64",
    "So it is in float64",
    band=(None, 1e-12),
    of=lab.exact("float64", record="identity"),
)
exactly(
    "pathwise",
    "On a noisy quadratic the equivalent schedule ends where the average is, path by path",
    band=(None, 1e-4),
    of=lab.exact("pathwise", record="identity"),
)
for name in NAMES:
    claim(
        f"explained_{name.lower()}",
        f"The equivalent schedule has the gain of {name} over the last iterate",
        "abstract",
        unit="share of the gain",
        band=(0.8, 1.25),
        of=explained("schedule", name),
    )
    claim(
        f"naive_{name.lower()}",
        f"Run anew with the shares of recorded gradients it has less of the gain of {name}",
        "ours",
        kind="ours",
        unit="share of the gain",
        band=(None, 0.9),
        of=explained("naive", name),
    )
averaging_equivalence.table(
    "training and test loss", lab.rows("loss", also=("test_loss", "test_right"))
)
averaging_equivalence.figure(
    lab.bars("loss", x="average", color="run", ylabel="training loss, nats"),
    "Loss on all training images of digits of the last iterate, of averages, of last iterates "
    "under the schedules that are equivalent to them, and under the naive schedules, with 95% "
    "intervals.",
)
