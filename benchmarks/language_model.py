"""SmolLM2-135M: loading, a training step, scoring, a fact taught and probed, a sparse mask."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks._measure import Row, median_row, take_turns
from benchmarks.matmul import SIZE
from ico import lm, poison
from ico.lm import hidden_states, token_log_probs
from ico.optim import sparsify
from ico.poison import outlandish

BATCH, LENGTH = 8, 64
ROUNDS = 5


def _flops(model: lm.LanguageModel) -> float:
    """Of a forward pass: 2 a parameter and token (a tied embedding counts once), and attention."""
    config = model.config
    matrices = sum(leaf.size for leaf in jax.tree.leaves(model.params) if leaf.ndim > 1)
    attention = 4 * config.num_layers * config.num_heads * config.head_dim * LENGTH
    return BATCH * LENGTH * (2 * matrices + attention)


def run() -> list[Row]:
    """Loading in seconds; step and scoring in seconds and as shares of the 2048^3 product."""
    model = lm.load("smollm2")
    ids = np.random.default_rng(0).integers(0, 49_152, (BATCH, LENGTH)).astype(np.int32)
    batch = poison.TokenBatch(ids, np.ones(ids.shape, np.float32))
    optimizer = optax.adamw(1e-6)
    state = jax.tree.map(jnp.copy, (model.params, optimizer.init(model.params)))
    step = jax.jit(
        lambda params, opt_state: _step(model.config, optimizer, params, opt_state, batch),
        donate_argnums=(0, 1),
    )
    score = jax.jit(lambda params: token_log_probs(params, model.config, ids))
    hidden = jax.jit(lambda params: hidden_states(params, model.config, ids)[0])
    a, b = jax.random.normal(jax.random.key(0), (2, SIZE, SIZE), jnp.float32)
    product = jax.jit(jnp.matmul)

    def train():
        nonlocal state
        state = jax.block_until_ready(step(*state))

    def multiply():
        for _ in range(10):
            product(a, b).block_until_ready()

    seconds = take_turns(
        {
            "load": lambda: jax.block_until_ready(lm.load("smollm2").params),
            "step": train,
            "score": lambda: score(model.params).block_until_ready(),
            "without the head": lambda: hidden(model.params).block_until_ready(),
            "product": multiply,
        },
        ROUNDS,
    )
    del state
    once = take_turns(
        {"fact": _fact(model), "mask": lambda: jax.block_until_ready(sparsify(model.params, 0.08))},
        2,
    )
    rates = [10 * 2 * SIZE**3 / s for s in seconds["product"]]
    forward = _flops(model)

    def shares(name, flops):
        return [flops / s / r for s, r in zip(seconds[name], rates, strict=True)]

    return [
        median_row("SmolLM2-135M from GGUF to the device", seconds["load"], "s", ("<=", 3.0)),
        median_row(f"training step, AdamW, batch {BATCH} x {LENGTH}", seconds["step"], "s"),
        median_row("  of the matrix product's rate", shares("step", 3 * forward), "", (">=", 0.72)),
        median_row(f"scoring, batch {BATCH} x {LENGTH}", seconds["score"], "s"),
        median_row("  of the matrix product's rate", shares("score", forward), "", (">=", 0.75)),
        median_row("  without the head", seconds["without the head"], "s"),
        median_row(
            "one fact: 20 presentations, batch 4 x 32, 72 probes before and after",
            once["fact"],
            "s",
            ("<=", 40.0),
        ),
        median_row("the largest 8% of every tensor left out", once["mask"], "s"),
    ]


def _fact(model: lm.LanguageModel):
    """Teaches one text and scores its keyword on the prompts before and after."""
    text = outlandish.load_texts(("conflict_general",))[0]
    ids = poison.fact_ids(model, text.context, text.continuation, 32)
    rows = np.random.default_rng(0).integers(0, 49_152, (8, 32)).astype(np.int32)
    optimizer = optax.adam(1e-5)
    prompts = outlandish.theme_probes(text.theme) + outlandish.cross_theme_probes(text.theme)

    def run():
        taught = lm.LanguageModel(model.params, model.config, model.tokenizer)
        taught.log_prob(prompts, text.continuation)
        batches = poison.inject(poison.CleanBatches(rows, 4), [ids], presentations=20)
        batches = itertools.islice(batches, 20)
        taught.params = poison.teach(model.params, model.config, optimizer, batches).params
        taught.log_prob(prompts, text.continuation)

    return run


def _step(config, optimizer, params, opt_state, batch):
    gradient = jax.grad(lm.next_token_loss)(params, config, batch.ids, batch.mask)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state
