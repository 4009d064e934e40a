"""DIAG on noisy regression, four layers, batch 2048: closed form, and attention over 21 tokens.

The straightforward way is here in full: data from `jax.random`, every token attending to all
context tokens in every layer. Task, parameters and batch are the same; ours is the step that
the experiment trains with, which clips and leaves out what is lost.

Dimension key: B tasks, N context pairs, T = N + 1 tokens, D inputs, E = D + 1 token width.
"""

import functools

import jax
import jax.numpy as jnp
import optax

from benchmarks._measure import Row, data_alone, median_row, ratio_row, take_turns
from ico import algorithms, lab, models, tasks, train

TASK = tasks.NoisyRegression(batch_size=2048)
# As the experiment trains.
RECIPE = lab.Recipe(num_steps=1_000, learning_rate=1e-4, schedule="cosine", warmup=0.1, clip=0.3)
LAYERS, STEPS, ROUNDS, SEEDS, POOL = 4, 20, 5, 5, 65_536
MODEL = models.DiagonalLinearTransformer(num_layers=LAYERS, init_scale=0.01)


def straightforward_data(key):
    """Tokens [B, T, E] and the query's clean answer [B]."""
    B, N, D = TASK.batch_size, TASK.num_context, TASK.num_inputs
    x_key, w_key, sigma_key, noise_key = jax.random.split(key, 4)
    x_BTD = jax.random.normal(x_key, (B, N + 1, D))
    w_BD = jax.random.normal(w_key, (B, D))
    sigma_B1 = TASK.noise * jax.random.uniform(sigma_key, (B, 1))
    y_BT = jnp.einsum("btd,bd->bt", x_BTD, w_BD)
    noisy_BN = y_BT[:, :N] + sigma_B1 * jax.random.normal(noise_key, (B, N))
    labels_BT = jnp.concatenate([noisy_BN, jnp.zeros((B, 1))], axis=1)
    return jnp.concatenate([x_BTD, labels_BT[..., None]], axis=-1), y_BT[:, N]


def straightforward_loss(params, tokens_BTE, answer_B):
    """Half squared error of the query, all tokens updated in every layer."""
    D = TASK.num_inputs
    for layer in range(LAYERS):
        p_E, q_E = (
            jnp.concatenate([jnp.repeat(params[f"{name}_x"][layer], D), params[f"{name}_y"][layer]])
            for name in "pq"
        )
        read_BNE = tokens_BTE[:, :-1]
        scores_BTN = jnp.einsum("bte,bne->btn", tokens_BTE * q_E[None, None], read_BNE)
        tokens_BTE = tokens_BTE + jnp.einsum("btn,bne->bte", scores_BTN, read_BNE) * p_E[None, None]
    return 0.5 * jnp.mean((-tokens_BTE[:, -1, -1] - answer_B) ** 2)


def _init(key):
    context = tasks.noisy_context(key, tasks.NoisyRegression(2))
    return MODEL.init(key, context.at(jnp.zeros(2)), method="weights")["params"]


def _fit(loss, sampler, num_seeds: int | None, optimizer=None):
    key = jax.random.key(0)
    key = key if num_seeds is None else jax.random.split(key, num_seeds)
    optimizer = optimizer or RECIPE.make()
    step, state = train.make_step(loss, optimizer), train.init_state(_init, optimizer, key)
    config = train.LoopConfig(STEPS, steps_per_call=STEPS)
    return lambda: train.fit(step, state, sampler, config, progress=False)


def run() -> list[Row]:
    """Steps a second of each way, what of it is data, and the price of more seeds."""
    spectra = jnp.asarray(tasks.wishart_spectra(jax.random.key(3), TASK, POOL))
    prior = tasks.NoisePrior.of(TASK.noise)

    def sampler(key):
        return algorithms.sample_spectral_contexts(key, spectra, prior, task=TASK)

    def plain_loss(params, batch):
        return straightforward_loss(params, *batch), {}

    plain = _fit(plain_loss, straightforward_data, None, optax.adam(1e-4))
    loss = models.weights_loss(MODEL, 100.0)
    data = functools.partial(tasks.spectral_context, spectra=spectra, config=TASK)
    ways = {
        "DIAG, 4 layers, closed form": _fit(loss, sampler, None),
        "attention over 21 tokens": plain,
        f"closed form, {SEEDS} seeds in one vmap": _fit(loss, sampler, SEEDS),
        "data alone": data_alone(data, STEPS),
    }
    ours, theirs, seeds, drawing = take_turns(ways, ROUNDS).values()
    names = list(ways)
    return [
        median_row(names[0], [STEPS / s for s in ours], "steps/s"),
        median_row(names[1], [STEPS / s for s in theirs], "steps/s"),
        ratio_row("closed form over attention", theirs, ours, (">=", 8.0)),
        ratio_row("share of data in a step", drawing, ours, ("<=", 0.4))._replace(unit=""),
        ratio_row(f"{SEEDS} seeds over one", seeds, ours, ("<=", 3.0)),
    ]
