"""Learned optimizers on sharded parameters: four devices compute what one does."""

import pytest

PROGRAM = """
import chex
chex.set_n_cpu_devices(4)
import jax, jax.numpy as jnp, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from ico import metatrain, optim, train
chex.assert_devices_available(4, 'cpu')
mesh = train.make_mesh({"data": 1, "model": 4})
key = jax.random.key(0)
params = {"body": {"kernel": jax.random.normal(key, (6, 8)), "bias": jnp.ones(8)},
          "head": {"kernel": jax.random.normal(key, (8, 3))}}
x = jax.random.normal(jax.random.key(1), (5, 6))
axes = {"body": {"kernel": P(None, "model"), "bias": P("model")}, "head": {"kernel": P("model")}}
split = jax.tree.map(lambda a, s: jax.device_put(a, NamedSharding(mesh, s)), params, axes)
learner = optim.learned(NAME)
theta = jax.tree.map(lambda a: a + 0.2, learner.init(jax.random.key(2), params))
learned = learner.build(theta, 9)
averaged = optim.averaging(optax.adam(0.1), interpolation=0.5)

def loss(p):
    hidden = jnp.tanh(x @ p["body"]["kernel"] + p["body"]["bias"])
    return jnp.mean((hidden @ p["head"]["kernel"]) ** 2)

for optimizer in (learned, averaged):
    @jax.jit
    def thrice(p, state):
        for _ in range(3):
            value, grads = jax.value_and_grad(loss)(p)
            updates, state = optimizer.update(grads, state, p, value=value)
            p = optax.apply_updates(p, updates)
        return p, optim.eval_params(state, p)

    whole, sharded = (thrice(p, optimizer.init(p)) for p in (params, split))
    for tree in sharded:
        kernel = tree["body"]["kernel"]
        assert kernel.sharding.shard_shape(kernel.shape) == (6, 2), kernel.sharding
    for tree in whole:
        moved = max(float(abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (tree, params))))
        assert moved > 1e-4
    chex.assert_trees_all_close(whole, sharded, rtol=1e-4, atol=1e-6)
# Sums over large sharded arrays need not gather them.
large = {"kernel": jax.device_put(jnp.ones((512, 512)), NamedSharding(mesh, P(None, "model")))}
optimizer = optim.L3RS().optimizer(optim.L3RS().init(key, large), num_steps=9)
update = jax.jit(lambda g, s, p: optimizer.update(g, s, p, value=jnp.ones(())))
program = update.lower(large, optimizer.init(large), large).compile().as_text()
assert "all-reduce" in program and "all-gather" not in program
# Trainable weight averaging with its checkpoints' rows on four devices: one all-reduce of D.
rows = jax.random.normal(key, (8, 4096))
sharded_rows = jax.device_put(rows, NamedSharding(mesh, P("model")))
gradient, start = rows[0] ** 2, jnp.zeros(4096)

@jax.jit
def in_span(rows, gradient):
    optimizer = optim.subspace(optax.adam(0.1), optim.Span(rows, start))
    return optimizer.update(gradient, optimizer.init(start), start)[0]

one, four = in_span(rows, gradient), in_span(sharded_rows, gradient)
chex.assert_trees_all_close(one, four, rtol=1e-4, atol=1e-6)
program = in_span.lower(sharded_rows, gradient).compile().as_text()
assert "all-reduce" in program and "f32[8,4096]" not in program
# Six tasks of a meta-training go on two of the four devices, the most that divide them.
task = metatrain.Task(lambda key: {"a": jnp.ones(3)}, lambda key: jax.random.normal(key, (3,)),
                      lambda p, x: jnp.sum((p["a"] - x) ** 2))
config = metatrain.MetaConfig(2, 3, estimator=metatrain.Estimator("evolution", num_tasks=6))
metatrain.meta_train(metatrain.family_of(task), learner, config, key, progress=False)
print("equal")
"""


@pytest.mark.parametrize(
    "learner",
    [
        "'l3rs'",
        pytest.param("'l3rs', average=True", marks=pytest.mark.slow),
        pytest.param("'adafac_mlp'", marks=pytest.mark.slow),
    ],
)
def test_four_devices_compute_what_one_does(learner, python):
    done = python("-c", PROGRAM.replace("NAME", learner))
    assert "equal" in done.stdout, done.stderr
