"""Learned optimizers: the price of an update, and inner steps a second of meta-training."""

import functools

import jax
import jax.numpy as jnp
import optax

from benchmarks._measure import Row, median_row, ratio_row, take_turns
from ico import metatrain, optim

# google/learned_optimization's TruncatedPES on two cores of the kind that ico was built on, with
# its AdafacMLP optimizer in the setting of `_meta_training`: inner steps a second.
_THEIRS = 1050
_TASKS, _TRUNCATION, _BATCH = 16, 50, 32


def _resnet_sized():
    """20 million parameters in 60 layers."""
    shapes = [(3, 3, 64, 64)] * 12 + [(3, 3, 128, 128)] * 16 + [(3, 3, 256, 256)] * 29
    shapes += [(512, 128)] * 3
    return {
        f"layer_{i}": {"kernel": jnp.full(shape, 0.1), "bias": jnp.zeros(shape[-1])}
        for i, shape in enumerate(shapes)
    }


def _stepping(optimizer, params, grads):
    """Updates and applies them, parameters and state in place, as a training step does."""

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params, state, grads):
        updates, state = optimizer.update(grads, state, params, value=jnp.ones(()))
        return optax.apply_updates(params, updates), state

    now = [jax.tree.map(jnp.copy, params), optimizer.init(params)]

    def call():
        now[:] = jax.block_until_ready(step(*now, grads))

    return call


def _updates() -> list[Row]:
    params = _resnet_sized()
    grads = jax.tree.map(lambda a: a + 0.01, params)
    config = optim.L3RS()
    theta = config.init(jax.random.key(0), params)
    calls = {}
    for name, optimizer in {
        "adamw": optax.adamw(1e-3),
        "lamb": optax.lamb(1e-3),  # needs norms of Adam's direction by layer, as l3rs does
        "l3rs": config.optimizer(theta, num_steps=10_000),
    }.items():
        calls[name] = _stepping(optax.with_extra_args_support(optimizer), params, grads)
    seconds = take_turns(calls, rounds=9)
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    what = f"an update of l3rs / adamw, {count / 1e6:.0f} million parameters, {len(params)} layers"
    return [
        ratio_row(what, seconds["l3rs"], seconds["adamw"], ("<=", 1.5)),
        ratio_row("an update of lamb / adamw", seconds["lamb"], seconds["adamw"]),
    ]


def _task() -> metatrain.Task:
    """An MLP 64-128-10 on random images."""
    images = jax.random.normal(jax.random.key(0), (1000, 64))
    labels = jax.random.randint(jax.random.key(1), (1000,), 0, 10)

    def init(key):
        keys = jax.random.split(key)
        return {
            "hidden": {"kernel": jax.random.normal(keys[0], (64, 128)) / 8, "bias": jnp.zeros(128)},
            "out": {"kernel": jax.random.normal(keys[1], (128, 10)) / 11, "bias": jnp.zeros(10)},
        }

    def batch(key):
        chosen = jax.random.randint(key, (_BATCH,), 0, len(images))
        return images[chosen], labels[chosen]

    def loss(params, batch):
        x, y = batch
        h = jax.nn.relu(x @ params["hidden"]["kernel"] + params["hidden"]["bias"][None])
        logits = h @ params["out"]["kernel"] + params["out"]["bias"][None]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, y))

    return metatrain.Task(init, batch, loss)


def _meta_training() -> list[Row]:
    family, rows = metatrain.family_of(_task()), []
    for name in ("adafac_mlp", "l3rs"):
        learner = optim.learned(name)
        theta = learner.init(jax.random.key(2), jax.eval_shape(_task().init, jax.random.key(0)))
        estimator = metatrain.Estimator("persistent", _TASKS, 0.01, _TRUNCATION)
        keys = jax.random.split(jax.random.key(3), _TASKS)
        horizons = jnp.full(_TASKS, 20 * _TRUNCATION)
        unrolls = metatrain.begin_unrolls(learner.build, family, estimator, theta, keys, horizons)
        window = functools.partial(metatrain.window_gradient, learner.build, family, estimator)
        step = jax.jit(functools.partial(window, keys=keys, horizons=horizons))
        single = jax.jit(
            lambda key, theta, learner=learner: metatrain.run(
                learner.build(theta, _TRUNCATION), _task(), key, _TRUNCATION
            )[1]
        )
        seconds = take_turns(
            {
                "pairs": lambda step=step, a=(theta, unrolls): jax.block_until_ready(step(*a)),
                "one": lambda one=single, t=theta: jax.block_until_ready(one(jax.random.key(4), t)),
            },
            rounds=5,
        )
        rates = [_TASKS * _TRUNCATION / s for s in seconds["pairs"]]
        goal = (">=", 3 * _THEIRS) if name == "adafac_mlp" else None
        what = f"{name}, {_TASKS} antithetic pairs: steps of pairs a second"
        rows.append(median_row(what, rates, "1/s", goal))
        what = f"{name}: {_TASKS} antithetic pairs / one run"
        rows.append(ratio_row(what, seconds["pairs"], seconds["one"], ("<=", 20.0)))
    return rows


def run() -> list[Row]:
    """An update of a large tree, then meta-training by persistent evolution strategies."""
    return [*_updates(), *_meta_training()]
