"""One linear self-attention layer, batch 2048, data included: `ico` and the straightforward way.

The straightforward way is here in full: one compiled call a step, all 11 tokens projected and
attending to all 11 (the query masked out as a key), data from `jax.random`. Task, parameters,
optimizer and batch are the same.

Dimension key: B tasks, N context pairs, T = N + 1 tokens, D inputs, E = D + 1 token width.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from benchmarks._measure import Row, data_alone, median_row, ratio_row, take_turns
from ico import models, tasks, train

TASK = tasks.LinearRegression(batch_size=2048)
OPTIMIZER = optax.chain(optax.clip_by_global_norm(1e-3), optax.adam(1e-3, b1=0.9, b2=0.98))
STEPS = 100
ROUNDS = 5
SEEDS = 3
ORIGINAL = 46  # steps/s of the authors' code on two cores of the kind the goal was set on


def straightforward_data(key):
    """Tokens [B, T, E] and the query's answer [B]."""
    B, N, D = TASK.batch_size, TASK.num_context, TASK.num_inputs
    w_key, x_key, query_key = jax.random.split(key, 3)
    w_BD = jax.random.normal(w_key, (B, D))
    x_BND = jax.random.uniform(x_key, (B, N, D), minval=-0.5, maxval=0.5)
    query_B1D = jax.random.uniform(query_key, (B, 1, D), minval=-0.5, maxval=0.5)
    y_BN = jnp.einsum("bnd,bd->bn", x_BND, w_BD)
    context_BNE = jnp.concatenate([x_BND, y_BN[..., None]], axis=-1)
    query_B1E = jnp.concatenate([query_B1D, jnp.zeros((B, 1, 1))], axis=-1)
    tokens_BTE = jnp.concatenate([context_BNE, query_B1E], axis=1)
    return tokens_BTE, jnp.einsum("bd,bd->b", query_B1D[:, 0], w_BD)


def straightforward_loss(params, tokens_BTE, answer_B):
    """Half squared error of the query, all tokens updated."""
    q, k, v = (tokens_BTE @ params[name] for name in ("query", "key", "value"))
    scores_BTT = jnp.einsum("bte,bse->bts", q, k)
    scores_BTT = scores_BTT.at[:, :, -1].set(0)
    updated_BTE = tokens_BTE + jnp.einsum("bts,bse->bte", scores_BTT, v) @ params["out"]
    return 0.5 * jnp.mean((-updated_BTE[:, -1, -1] - answer_B) ** 2)


def straightforward_step(params, opt_state, key, step):
    """One training step."""
    batch = straightforward_data(jax.random.fold_in(key, step))
    loss, gradient = jax.value_and_grad(straightforward_loss)(params, *batch)
    updates, opt_state = OPTIMIZER.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, loss


def _straightforward():
    """The two ways to run these steps: one call a step, and one scan over all."""
    E = TASK.num_inputs + 1
    weights_4EE = (0.002 / E) ** 0.5 * jax.random.normal(jax.random.key(0), (4, E, E))
    params = dict(zip(("query", "key", "value", "out"), weights_4EE, strict=True))
    start, key = (params, OPTIMIZER.init(params)), jax.random.key(1)
    compiled = jax.jit(straightforward_step)

    def dispatched():
        carry = start
        for step in range(STEPS):
            *carry, loss = compiled(*carry, key, step)
        jax.block_until_ready(loss)

    @jax.jit
    def scan(carry):
        def body(carry, step):
            *carry, loss = straightforward_step(*carry, key, step)
            return tuple(carry), loss

        return jax.lax.scan(body, carry, jnp.arange(STEPS))[1]

    return dispatched, lambda: jax.block_until_ready(scan(start))


def _ico(num_seeds: int | None):
    model = models.LinearTransformer()
    apply = models.learner(model)
    sampler = functools.partial(tasks.linear_regression, config=TASK)

    def loss(params, episode):
        prediction = apply(params, episode.prompt)
        return tasks.half_squared_error(prediction, episode.y_query).mean(), {}

    def init(key):
        return model.init(key, sampler(key).prompt)["params"]

    key = jax.random.key(0)
    key = key if num_seeds is None else jax.random.split(key, num_seeds)
    step, state = train.make_step(loss, OPTIMIZER), train.init_state(init, OPTIMIZER, key)
    config = train.LoopConfig(STEPS, steps_per_call=STEPS)
    return lambda: train.fit(step, state, sampler, config, progress=False)


def run() -> list[Row]:
    """Steps a second of each way, and what of it is data."""
    dispatched, scanned = _straightforward()
    ways = {
        "ico.train.fit": _ico(None),
        "straightforward, one call a step": dispatched,
        "straightforward, one lax.scan": scanned,
        f"ico.train.fit, {SEEDS} seeds in one vmap": _ico(SEEDS),
        "data alone, ico.tasks": data_alone(
            functools.partial(tasks.linear_regression, config=TASK), STEPS
        ),
        "data alone, jax.random": data_alone(straightforward_data, STEPS),
    }
    seconds = take_turns(ways, ROUNDS)
    ours, plain, scan, seeds, data, plain_data = seconds.values()

    def rate(values, seeds=1):
        return [seeds * STEPS / s for s in values]

    names = list(ways)
    return [
        median_row(names[0], rate(ours), "steps/s", (">=", 5.0 * ORIGINAL)),
        median_row(names[1], rate(plain), "steps/s"),
        median_row(names[2], rate(scan), "steps/s"),
        median_row(names[3], rate(seeds, SEEDS), "steps of one seed/s"),
        ratio_row("ico over one call a step", plain, ours),
        ratio_row("ico over one lax.scan", scan, ours),
        median_row(names[4], [1e3 * s / STEPS for s in data], "ms/batch"),
        median_row(names[5], [1e3 * s / STEPS for s in plain_data], "ms/batch"),
        ratio_row("share of data in a step of ico", data, ours)._replace(unit=""),
    ]
