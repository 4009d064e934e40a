"""optax's own test suite for contributed optimizers, run over those of ico.

The suite ships inside optax's wheel. Its list of optimizers is replaced by one of ours at a time,
under a name for which it passes the loss, `value=`. Its convergence cases take 30,000 steps: slow.
"""

import importlib.util
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import ico

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
TestL3RSConverges = pytest.mark.slow(_cases(l3rs, 1.0, slow=True))
TestL3RSAverageConverges = pytest.mark.slow(_cases(l3rs_average, 1.0, slow=True))
TestEmaOfAdamConverges = pytest.mark.slow(_cases(ema_of_adam, 1e-1, slow=True))
TestScheduleFreeSgdConverges = pytest.mark.slow(_cases(schedule_free_sgd, 1e-2, slow=True))
TestAdafacMLPConverges = pytest.mark.slow(_cases(adafac_mlp, 1.0, slow=True))
TestDirectionMLPConverges = pytest.mark.slow(_cases(direction_mlp, 1e-3, slow=True))
