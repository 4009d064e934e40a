"""optax's own test suite for contributed optimizers, run over those of ico; wrappers, odd shapes.

The suite ships inside optax's wheel. Its list of optimizers is replaced by one of ours at a time,
under a name for which it passes the loss, `value=`. Its convergence cases take 30,000 steps: slow.
"""

import importlib.util
import sys
import types
from pathlib import Path

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

import ico
from ico import train

_BIND = "_MAIN_OPTIMIZERS_UNDER_TEST = tuple(_MAIN_OPTIMIZERS_UNDER_TEST)\n"
_OURS = (
    "_MAIN_OPTIMIZERS_UNDER_TEST = ({'opt_name': 'momo', 'opt_kwargs': {'learning_rate': RATE}, "
    "'wrapper_name': None, 'wrapper_kwargs': None},)\n"
    "_ALL_OPTIMIZERS_UNDER_TEST = _MAIN_OPTIMIZERS_UNDER_TEST\n"
)


def suite(factory, rate: float) -> type:
    """The suite's test case over `factory(learning_rate)`."""
    path = Path(importlib.util.find_spec("optax.contrib").origin).parent / "_common_test.py"
    source = path.read_text()
    assert source.count(_BIND) == 1, "this optax's suite is another"
    module = types.ModuleType(f"optax_suite_{factory.__name__}")
    sys.modules[module.__name__] = module  # absl looks a test's module up there
    code = source.replace(_BIND, _OURS.replace("RATE", str(rate)))
    exec(compile(code, str(path), "exec"), module.__dict__)
    module._get_opt_factory = lambda name: factory
    return module.ContribTest


def l3rs(learning_rate: float = 1.0):
    """Untrained: an even mix of gradient descent and Adam under a cosine."""
    config = ico.optim.L3RS(universal=True)
    return config.optimizer(config.init(jax.random.key(0), None), 30_000, learning_rate)


def l3rs_average(learning_rate: float = 1.0):
    """The same with a mean of iterates."""
    config = ico.optim.L3RS.averaged(universal=True, anneal=True)
    return config.optimizer(config.init(jax.random.key(0), None), 30_000, learning_rate)


def ema_of_adam(learning_rate: float = 1e-1):
    """Adam, whose training an exponential moving average does not change."""
    return ico.optim.averaging(optax.adam(learning_rate), weight=0.1)


def schedule_free_sgd(learning_rate: float = 1e-2):
    """Gradient descent whose gradients are taken near its mean."""
    return ico.optim.averaging(optax.sgd(learning_rate), interpolation=0.9)


def swa_of_sgd(learning_rate: float = 1e-2):
    """Gradient descent with the mean of its last half; before that the average is the start."""
    return ico.optim.averaged(optax.sgd(learning_rate), ico.optim.SWA(15_000), 30_000)


def lawa_of_adam(learning_rate: float = 1e-1):
    """Adam with the mean of its latest three checkpoints."""
    return ico.optim.latest_averaging(optax.adam(learning_rate), 3, every=2)


def _follow_momentum(theta, scale):
    """Hand-set weights: the first output is momentum over the root of the second moment."""
    network = jax.tree.map(jnp.zeros_like, theta["network"])
    network["dense_0"]["kernel"] = (
        network["dense_0"]["kernel"].at[3, :2].set(jnp.array([1.0, -1.0]))
    )
    inner = [name for name in network if name not in ("dense_0", f"dense_{len(network) - 1}")]
    for name in inner:
        network[name]["kernel"] = jnp.eye(*network[name]["kernel"].shape)
    last = network[f"dense_{len(network) - 1}"]
    last["kernel"] = last["kernel"].at[:2, 0].set(scale * jnp.array([1.0, -1.0]))
    return {"network": network}


def adafac_mlp(learning_rate: float = 1.0):
    """A network that does what Adam does."""
    theta = _follow_momentum(ico.optim.adafac_mlp_init(jax.random.key(0)), 1.0)
    return ico.optim.adafac_mlp(theta, learning_rate=learning_rate)


def direction_mlp(learning_rate: float = 1e-3):
    """The same, annealed: a direction alone never comes to rest."""
    theta = _follow_momentum(ico.optim.direction_mlp_init(jax.random.key(0)), 1.0)
    annealed = optax.cosine_decay_schedule(1.0, 30_000)
    return optax.chain(
        ico.optim.direction_mlp(theta, learning_rate), optax.scale_by_schedule(annealed)
    )


def sparse_adam(learning_rate: float = 1e-1):
    """Adam whose steps are sparsified over windows of two."""
    return optax.chain(
        optax.adam(learning_rate), ico.optim.sparse_updates(0.5, window=2, mode="keep_top")
    )


@pytest.fixture(autouse=True)
def promotion():
    """The suite's own functions promote ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield


def _cases(factory, rate, slow, without=()):
    case = suite(factory, rate)
    names = [name for name in dir(case) if name.startswith("test_")]
    converges = [
        name
        for name in names
        if name.startswith("test_optimizers") and name.removeprefix("test_optimizers")[:1].isdigit()
    ]
    assert len(converges) == 4 and len(names) > 12
    left_out = [name for name in names if (name in converges) != slow or name in without]
    return type(case)(factory.__name__, (case,), dict.fromkeys(left_out))


TestL3RS = _cases(l3rs, 1.0, slow=False)
TestL3RSAverage = _cases(l3rs_average, 1.0, slow=False)
TestEmaOfAdam = _cases(ema_of_adam, 1e-1, slow=False)
TestScheduleFreeSgd = _cases(schedule_free_sgd, 1e-2, slow=False)
TestAdafacMLP = _cases(adafac_mlp, 1.0, slow=False)
# Nearly the code of AdafacMLP's.
TestDirectionMLP = pytest.mark.slow(_cases(direction_mlp, 1e-3, slow=False))
# Its state holds a typed key, which the suite's comparison of states cannot read.
TestSparseAdam = pytest.mark.slow(
    _cases(sparse_adam, 1e-1, False, ("test_optimizers_can_be_wrapped_in_inject_hyperparams0",))
)
TestSwaOfSgd = pytest.mark.slow(_cases(swa_of_sgd, 1e-2, slow=False))
TestLawaOfAdam = pytest.mark.slow(_cases(lawa_of_adam, 1e-1, slow=False))
TestL3RSConverges = pytest.mark.slow(_cases(l3rs, 1.0, slow=True))
TestL3RSAverageConverges = pytest.mark.slow(_cases(l3rs_average, 1.0, slow=True))
TestEmaOfAdamConverges = pytest.mark.slow(_cases(ema_of_adam, 1e-1, slow=True))
TestScheduleFreeSgdConverges = pytest.mark.slow(_cases(schedule_free_sgd, 1e-2, slow=True))
TestAdafacMLPConverges = pytest.mark.slow(_cases(adafac_mlp, 1.0, slow=True))
TestDirectionMLPConverges = pytest.mark.slow(_cases(direction_mlp, 1e-3, slow=True))


# Wrappers and odd shapes --------------------------------------------------------------------------

OURS = {
    "l3rs": l3rs,
    "l3rs_average": l3rs_average,
    "ema_of_adam": ema_of_adam,
    "schedule_free_sgd": schedule_free_sgd,
    "adafac_mlp": adafac_mlp,
    "direction_mlp": direction_mlp,
    "sparse_adam": sparse_adam,
}
# Slow: a mean of iterates is there with other optimizers too, and a network with AdafacMLP.
each_optimizer = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow)
        if name in ("l3rs_average", "direction_mlp")
        else name
        for name in OURS
    ],
)
PARAMS = {"layer": {"bias": jnp.arange(3.0)}}
ODD = {
    "layer": {
        "kernel": jnp.ones((2, 3)),
        "empty": jnp.zeros((0, 4)),
        "none": None,
        "low": jnp.ones(3, jnp.bfloat16),
    },
    "scale": jnp.array(2, jnp.float32),
    "none": None,
}


def wrapped(make) -> dict[str, optax.GradientTransformation]:
    """An optimizer in wrappers that change nothing."""
    everywhere = jax.tree.map(lambda _: True, PARAMS)
    labels = jax.tree.map(lambda _: "all", PARAMS)
    return {
        "MultiSteps": optax.MultiSteps(make(), 1),
        "MultiSteps as a transform": optax.MultiSteps(make(), 1).gradient_transformation(),
        "apply_if_finite": optax.apply_if_finite(make(), 3),
        "masked": optax.masked(make(), everywhere),
        "partition": optax.partition({"all": make()}, labels),
        "inject_hyperparams": optax.inject_hyperparams(lambda factor: make())(1.0),
        "averaging": ico.optim.averaging(make(), 0.5),
        "latest_averaging": ico.optim.latest_averaging(make(), 2),
        "on_parts": ico.optim.on_parts(optax.MultiSteps(make(), 1), "layer"),
    }


@each_optimizer
def test_wrappers_pass_everything_on(name):
    make = OURS[name]

    @jax.jit
    def updates(grads):
        def first(optimizer):
            optimizer = ico.optim.with_loss(optimizer)
            return optimizer.update(grads, optimizer.init(PARAMS), PARAMS, value=jnp.ones(()))[0]

        return first(make()), {key: first(one) for key, one in wrapped(make).items()}

    alone, found = updates(jax.tree.map(lambda a: a + 1, PARAMS))
    assert optax.tree.norm(alone) > 0 or name == "sparse_adam"
    for key, tree in found.items():
        chex.assert_trees_all_close(tree, alone, rtol=1e-5, custom_message=key)


@each_optimizer
def test_lookahead_moves_the_fast_parameters_alike(name):
    """It passes no loss on: what needs it says what to do."""
    make, pair = OURS[name], optax.LookaheadParams.init_synced(PARAMS)
    optimizer = optax.lookahead(make(), 5, 0.5)
    if name.startswith("l3rs"):
        with pytest.raises(ValueError, match="use_loss=False"):
            jax.eval_shape(lambda: optimizer.update(PARAMS, optimizer.init(pair), pair))
        return
    found, alone = jax.jit(
        lambda grads: (
            optimizer.update(grads, optimizer.init(pair), pair)[0],
            make().update(grads, make().init(PARAMS), PARAMS)[0],
        )
    )(PARAMS)
    chex.assert_trees_all_close(found.fast, alone, rtol=1e-5)
    chex.assert_trees_all_equal(found.slow, jax.tree.map(jnp.zeros_like, PARAMS))


def test_accumulated_gradients_make_one_step():
    """Through `make_step`, which gives the loss to what is wrapped."""

    def loss(params, target):
        return sum(jnp.sum((a - target) ** 2) for a in jax.tree.leaves(params)), {}

    ends = []
    for optimizer, steps in ((l3rs(), 1), (optax.MultiSteps(l3rs(), 2), 2)):
        state = train.init_state(lambda _: PARAMS, optimizer, jax.random.key(0))
        step = jax.jit(train.make_step(loss, optimizer))
        for _ in range(steps):
            state, _ = step(state, jnp.array(0.5))
        ends.append(state.params)
    chex.assert_trees_all_close(*ends, rtol=1e-6)
    assert not jnp.allclose(ends[0]["layer"]["bias"], PARAMS["layer"]["bias"])


@each_optimizer
def test_parameters_of_any_shape(name):
    """Scalars, empty arrays, None and bfloat16: types and shapes stay, and all is finite."""
    optimizer = OURS[name]()
    update = jax.jit(chex.assert_max_traces(optimizer.update, n=1))
    state = jax.jit(optimizer.init)(ODD)
    for _ in range(2):
        updates, after = update(ODD, state, ODD, value=jnp.ones(()))
        chex.assert_trees_all_equal_shapes_and_dtypes(updates, ODD)
        chex.assert_trees_all_equal_shapes_and_dtypes(after, state)
        state = after
    numbers = [a for a in jax.tree.leaves((updates, state)) if jnp.issubdtype(a.dtype, jnp.number)]
    chex.assert_tree_all_finite(numbers)
    assert optax.tree.norm(updates) > 0
