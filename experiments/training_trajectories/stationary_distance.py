"""How far from the minimum does SGD stay in the long run, by its learning rate?

The geometric model: near a minimum of curvature H, gradients of mini-batches have the covariance C,
and SGD of rate r stays in an ellipsoid around it. In the eigenbasis of H the mean squared distance
is `sum_i r C_ii / (h_i (2 - r h_i))`, which needs no number but those at the minimum
(`ico.probes.stationary_variance` in every direction).

Dimension key: S seeds, C learning rates, D parameters, N images, n iterates.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.training_trajectories import testbed
from experiments.training_trajectories.paper import paper
from ico import lab, probes, report

# Learning rates, as shares of the inverse of the largest curvature.
SHARES = (0.02, 0.05, 0.1, 0.2, 0.4, 0.8)
MEASURED, PREDICTED = "measured", "predicted"
_PENALTY = 0.02  # of softmax regression, per squared weight and one half; it has one minimum


def _loss(w_D, pixels, labels):
    """Cross-entropy of softmax regression on pixels, with the penalty."""
    weights = w_D.reshape(-1, 10)
    flat = pixels.reshape(len(pixels), -1)
    inputs = jnp.concatenate([flat, jnp.ones((len(flat), 1), flat.dtype)], axis=1)
    penalty = 0.5 * _PENALTY * jnp.sum(w_D**2)
    return testbed.cross_entropy(inputs @ weights, labels).mean() + penalty


def minimum(pixels, labels):
    """The minimum, by Newton's method; there the curvatures h [D] and C_ii [D] of one image."""
    with jax.enable_x64(True):
        pixels, labels = jnp.asarray(pixels, jnp.float64), jnp.asarray(labels)
        gradient, hessian = jax.jit(jax.grad(_loss)), jax.jit(jax.hessian(_loss))
        w_D = jnp.zeros(10 * (pixels[0].size + 1), jnp.float64)
        for _ in range(20):
            w_D = w_D - jnp.linalg.solve(
                hessian(w_D, pixels, labels), gradient(w_D, pixels, labels)
            )
        h_D, basis_DD = np.linalg.eigh(np.asarray(hessian(w_D, pixels, labels)))
        each_ND = jax.vmap(lambda x, y: jax.grad(_loss)(w_D, x[None], y[None]))(pixels, labels)
        along_ND = np.asarray(each_ND - each_ND.mean(0)[None]) @ basis_DD
    return np.asarray(w_D), h_D, (along_ND**2).mean(0)


@functools.partial(jax.jit, static_argnums=(0,))
def _distances(num_steps, pixels, labels, start_D, keys_S, rates_C):
    """Mean squared distance from the minimum over the second half of a long run, [S, C]."""

    def one(key, rate):
        def step(carry, key):
            w_D, total, number = carry
            images, answers = testbed.sample(
                key, {"images": pixels, "labels": labels}, batch_size=testbed.DIGITS_BATCH
            )
            w_D = w_D - rate * jax.grad(_loss)(w_D, images, answers)
            late = number >= num_steps // 2
            total = total + jnp.where(late, jnp.sum((w_D - start_D) ** 2), 0.0)
            return (w_D, total, number + 1), None

        carry = start_D, jnp.zeros(()), 0
        total = jax.lax.scan(step, carry, jax.random.split(key, num_steps))[0][1]
        return total / (num_steps - num_steps // 2)

    return jax.vmap(lambda key: jax.vmap(functools.partial(one, key))(rates_C))(keys_S)


@paper.study("How far from the minimum does SGD stay, by its learning rate?")
def stationary_distance(run):
    """On a problem with one minimum, predicted; on the network, whether there is a long run."""
    images = testbed.digits(run).train
    w_D, h_D, noise_D = minimum(images.pixels, images.labels)
    rates_C = np.array(SHARES) / h_D.max()
    num_steps = 60_000 if run.preset != "smoke" else 50
    keys = jax.random.split(run.key("stationary"), run.num_seeds)
    found = _distances(
        num_steps,
        jnp.asarray(images.pixels),
        jnp.asarray(images.labels),
        jnp.asarray(w_D, jnp.float32),
        keys,
        jnp.asarray(rates_C, jnp.float32),
    )
    # Of a batch, the variance of one image's gradient is divided by the images; the model is for
    # noisy minima m_t, whose variance is that of the gradient over the curvature squared.
    variance_D = noise_D / testbed.DIGITS_BATCH / h_D**2
    for c, share in enumerate(SHARES):
        each = [
            probes.stationary_variance(rates_C[c], float(h), float(v))
            for h, v in zip(h_D, variance_D, strict=True)
        ]
        predicted = np.full((run.num_seeds, 1), np.sum(each))
        yield lab.record(by=MEASURED, share=share, squared=np.asarray(found)[:, c : c + 1])
        yield lab.record(by=PREDICTED, share=share, squared=predicted)
    yield from _network(run)


def _network(run):
    """Squared distances of the network's last iterate from those before it."""
    base = testbed.constant(run)
    flat_nSCD = testbed.iterates(base)
    for c, rate in enumerate(run.config.digit_rates):
        for gap in (gap for gap in run.config.gaps if gap <= run.config.epochs):
            between_SD = flat_nSCD[-1, :, c].astype(float) - flat_nSCD[-1 - gap, :, c]
            squared = (between_SD**2).sum(-1, keepdims=True)
            yield lab.record("network", rate=rate, gap=gap, squared=squared)


def _growth(records):
    """From ten epochs apart to twenty, at every learning rate."""
    some = records["network"]
    pairs = [
        tuple(some.one(rate=rate, gap=gap)["squared"] for gap in (20, 10))
        for rate in some.axis("rate")
    ]
    return lab.EveryPair(pairs, report.ratio)


stationary_distance.claim(
    "distance",
    "The model predicts the stationary squared distance from the minimum at six learning rates",
    "abstract",
    unit="measured / predicted",
    band=(0.85, 1.15),
    of=lab.every(lab.ratio("squared", by=(MEASURED, PREDICTED)), share=SHARES),
)
stationary_distance.claim(
    "network",
    "The residual network is stationary: iterates 20 epochs apart are as far apart as 10",
    "ours",
    kind="ours",
    unit="ratio of squares",
    band=(None, 1.15),
    of=_growth,
)
stationary_distance.table(
    "squared distance from the minimum",
    lab.grid("squared", rows=("share",), columns="by"),
)
stationary_distance.figure(
    lab.lines(
        "share",
        "squared",
        color="by",
        log="xy",
        xlabel="learning rate x largest curvature",
        ylabel="squared distance from the minimum",
    ),
    "Softmax regression on digits: mean squared distance of SGD from the minimum in the long run, "
    "measured, and predicted from curvatures and gradients at the minimum alone.",
    name="stationary",
)
stationary_distance.figure(
    lab.lines(
        "gap",
        "squared",
        record="network",
        color="rate",
        xlabel="epochs apart",
        ylabel="squared distance",
    ),
    "Squared distance of the residual network's last iterate from earlier ones, by learning rate, "
    "with 95% intervals. Where SGD is stationary the lines are flat.",
    name="stationary_network",
)
