"""Gradient descent on one task after the other, free or held by EWC or LwF: the common rivals.

Dimension key: S seeds, E test sequences, T tasks.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.continual_hypertransformer import testbed
from experiments.hypertransformer.testbed import class_loss, classes, recipe, sample_images
from ico import data, lab, models

# The strengths that each is tried at, with each rate.
PENALTIES = {
    "descent": {},
    "EWC": {"ewc": (1.0, 10.0, 100.0, 1e3, 1e4)},
    "LwF": {"lwf": (0.3, 1.0, 3.0)},
}
_RATES = (0.01, 0.03, 0.1)
_START_RATE = 3e-3  # the middle of those that `hypertransformer` tries for such a network
_BATCH = 128  # images a step of the network that descent starts from
_TUNING = 100  # sequences of the scripts for tuning, of one seed


@lab.once
def start(run) -> lab.Trained:
    """The network that descent starts from, trained on all training classes at once."""
    size, config = run.config.image_size, run.config
    images = classes(run).train
    shape = (size, size, 1)
    model = models.LinearHead(shape, 4 * len(images.names), config.channels, config.num_convs)
    return lab.train(
        run,
        "start-of-descent",
        model,
        functools.partial(sample_images, count=_BATCH),
        recipe(_START_RATE, config.num_steps),
        loss=functools.partial(class_loss, model=model),
        init=lambda key: model.init(key, jnp.zeros((2, *shape)), method="class_logits")["params"],
        given=jax.tree.map(jnp.asarray, images.arrays),
    )


def scores(run, images, length: int):
    """Of each penalty at its best rate and strength: its name, right answers [S, E, T, T]."""
    params = start(run).params["network"]
    one = jax.tree.map(lambda leaf: leaf[:1], params)
    tuning, count = classes(run).valid, min(_TUNING, run.config.test_episodes)
    for name, tried in PENALTIES.items():
        ((kind, strengths),) = tried.items() or [("ewc", (0.0,))]
        found = {}
        for rate in _RATES:
            for strength in strengths:
                right = _right(run, one, tuning, length, count, rate, **{kind: strength})
                found[rate, strength] = float(right[..., -1, :].mean())
        rate, strength = max(found, key=lambda place: found[place])
        run.note(f"{name}: rate {rate:g}, strength {strength:g} on the scripts for tuning.")
        count_all = run.config.test_episodes
        yield name, _right(run, params, images, length, count_all, rate, **{kind: strength})


def _right(run, params, images, length, count, rate, *, ewc=0.0, lwf=0.0) -> np.ndarray:
    few, cut = testbed.sequences(run, length)
    few.check(images)
    size = run.config.image_size
    keys = jax.random.split(run.key("test"), count)
    arrays = jax.tree.map(jnp.asarray, images.arrays)
    return np.asarray(_accuracies(params, arrays, keys, few, cut, size, rate, ewc, lwf))


@functools.partial(jax.jit, static_argnames=("few", "cut", "size"))
def _accuracies(params, arrays, keys, few, cut, size, rate, ewc, lwf):
    judge = models.ContinualLoss()

    def of_sequence(key):
        tasks = cut(data.few_shot(key, few, arrays))

        def one(network):
            answers = models.learn_in_order(network, tasks, (size, size, 1), rate, ewc=ewc, lwf=lwf)
            return judge.accuracy(answers, tasks)[0]

        return jax.vmap(one)(params)

    return jnp.swapaxes(jax.lax.map(of_sequence, keys, batch_size=10), 0, 1)
