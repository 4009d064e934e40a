"""URPE: relative positions that let a transformer tell identical tokens apart.

Relative position biases cannot: each row of a softmax sums to one, so identical tokens give
identical outputs at all positions. A learned Toeplitz gate behind the softmax can (Luo et al. 2022,
"Your Transformer May Not be as Powerful as You Expect").

Command:  python -m experiments.systems.urpe      (cpu: some twenty minutes on two cores)
Expected: naming its position, a bias alone is right as often as chance, 1/16; a gate always.
Known before the bands were fixed, from one run each at these sizes: positions 0.066 with the bias
and 1.00 with the gate; even tokens 0.68 and 0.76. Published: 3 layers, 128 positions.
Ours: linear attention, whose rows need not sum to one; without a gate it knows no positions.

Dimension key: B sequences, N positions, E width, H heads.
"""

import functools
from typing import Annotated, Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from ico import lab
from ico.layers import linear_attention, softmax_attention, toeplitz

BIAS, GATE, LINEAR, LINEAR_GATE = "softmax, bias", "softmax, bias, gate", "linear", "linear, gate"
HEADS = 2


class Config(lab.Config):
    """What a preset chooses."""

    # Models of each kind, trained side by side.
    num_seeds: lab.Count = 8
    # Training of each.
    num_steps: lab.Count = 1_200
    # Sequences a step.
    batch_size: lab.Count = 64
    # Tokens of a sequence, and different words.
    length: Annotated[int, lab.Range(4, 128)] = 16
    # Layers.
    depth: lab.Count = 2
    # Sequences that accuracies are measured on.
    num_tests: Annotated[int, lab.Range(2)] = 512


paper = lab.Paper(
    "urpe",
    config=Config,
    authors="Luo, Li, Zheng, Liu, Wang, He",
    year=2022,
    arxiv="2205.13401",
    smoke={"num_seeds": 2, "num_steps": 4, "batch_size": 4, "num_tests": 8},
    cost={"cpu": "some twenty minutes on two cores"},
    paper={"num_steps": 20_000, "length": 128, "depth": 3, "num_seeds": 3},
)


class Encoder(nn.Module):
    """Every token sees all others. Biases and gates are shared by the layers, as in the paper."""

    attention: str
    length: int
    depth: int
    width: int = 32

    @nn.compact
    def __call__(self, words_BN):
        """Logits over positions or words, and one for the end [B, N, length + 1]."""
        (B, N), E = words_BN.shape, self.width
        shape = (HEADS, 2 * self.length - 1)
        bias = toeplitz(self.param("bias", nn.initializers.zeros, shape), N, N)[None]
        gate = toeplitz(self.param("gate", nn.initializers.ones, shape), N, N)[None]
        gate = gate if "gate" in self.attention else None
        x_BNE = nn.Embed(self.length, E)(words_BN)
        for _ in range(self.depth):
            qkv_BNF = cast(jax.Array, nn.Dense(3 * E)(nn.LayerNorm()(x_BNE)))
            q, k, v = jnp.moveaxis(qkv_BNF.reshape(B, N, 3, HEADS, -1), 2, 0)
            if "softmax" in self.attention:
                o_BNHA = softmax_attention(q, k, v, causal=False, bias=bias, gate=gate)
            else:
                o_BNHA = cast(
                    jax.Array,
                    linear_attention(q / N, k, v, causal=False, gate=gate, form="parallel"),
                )
            x_BNE = x_BNE + nn.Dense(E)(o_BNHA.reshape(B, N, -1))
            x_BNE = x_BNE + nn.Dense(E)(nn.gelu(nn.Dense(4 * E)(nn.LayerNorm()(x_BNE))))
        return nn.Dense(self.length + 1)(nn.LayerNorm()(x_BNE))


def sample(key, task, batch_size, length):
    """Random words [B, N], and what to answer at each position [B, N]."""
    words_BN = jax.random.randint(key, (batch_size, length), 0, length)
    if task == "position":
        return words_BN, jnp.broadcast_to(jnp.arange(length)[None], words_BN.shape)
    even = words_BN[:, 1::2]  # then a word of its own: no more to come
    return words_BN, jnp.pad(even, ((0, 0), (0, length - length // 2)), constant_values=length)


def loss(params, batch, model):
    """Cross entropy of the answers, in nats."""
    log_p = jax.nn.log_softmax(model.apply({"params": params}, batch[0]))
    return -jnp.mean(jnp.take_along_axis(log_p, batch[1][..., None], axis=-1)), {}


@paper.study("Can relative positions tell identical tokens apart?")
def identical_tokens(run):
    """Untrained models with random biases and gates on one repeated word, in float64."""
    length = run.config.length
    words_BN = jnp.tile(jnp.arange(length)[:, None], (1, length))
    with jax.enable_x64(True):
        for attention in (BIAS, GATE):
            model = Encoder(attention, length, run.config.depth)
            params: Any = model.init(run.key("identical"), words_BN)["params"]
            noise = jax.random.normal(run.key("noise"), (2, *params["bias"].shape))
            params |= {"bias": noise[0], "gate": 1 + noise[1]}
            params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
            logits = model.apply({"params": params}, words_BN)
            yield lab.record(attention=attention, spread=np.ptp(np.asarray(logits), axis=1).max())


@paper.study("Do they learn to name their position, and to list every second token?")
def learning(run):
    """Four kinds of attention on both tasks; seed by seed they see the same sequences."""
    config = run.config
    recipe = lab.Recipe(config.num_steps, 3e-3, schedule="cosine", warmup=0.1)
    for task in ("position", "even"):
        draw = functools.partial(sample, task=task, length=config.length)
        words, answers = draw(run.key(f"test/{task}"), batch_size=config.num_tests)
        for attention in (BIAS, GATE, LINEAR, LINEAR_GATE):
            model = Encoder(attention, config.length, config.depth)
            name = f"{task}-{attention.replace(', ', '-')}"
            sampler = functools.partial(draw, batch_size=config.batch_size)
            score = functools.partial(loss, model=model)
            trained = lab.train(run, name, model, sampler, recipe, loss=score, stream=task)
            right = np.asarray(trained.outputs(words).argmax(-1) == answers[None])
            yield lab.record(task=task, attention=attention, accuracy=right.mean(-1))
            curve = {"step": trained.history["step"], "loss": trained.history["loss"].T}
            yield lab.record("curve", task=task, attention=attention, **curve)


def _spread(attention):
    return lab.exact("spread", attention=attention)


def _named(attention):
    return lab.mean("accuracy", task="position", attention=attention)


even = lab.difference("accuracy", task="even", attention=(GATE, BIAS))
alike = functools.partial(identical_tokens.claim, kind="core", unit="spread of logits")
alike(
    "bias_is_blind",
    "With any bias identical tokens give identical outputs",
    "Proposition 2",
    band=(None, 1e-12),
    of=_spread(BIAS),
)
alike("gate_sees", "With a gate they do not", "Theorem 3", band=(1e-3, None), of=_spread(GATE))
claim = functools.partial(learning.claim, source="section 5.1", unit="accuracy")
claim(
    "position_bias",
    "With a bias alone a model cannot name the position (chance is 1/16)",
    kind="core",
    band=(None, 0.15),
    of=_named(BIAS),
)
claim("position_gate", "With the gate it can", kind="core", band=(0.95, None), of=_named(GATE))
claim("even_gate", "With the gate it lists every second token better", band=(0, None), of=even)
claim(
    "linear_gate",
    "Linear attention, too, names positions with a gate",
    source="ours",
    kind="ours",
    band=(0.95, None),
    of=_named(LINEAR_GATE),
)
learning.figure(
    lab.bars("accuracy", x="task", color="attention"),
    "Paper, section 5.1. Accuracy on fresh sequences of naming the own position and of listing "
    "every second token, with 95% intervals over seeds and sequences.",
)
learning.figure(
    lab.lines("step", "loss", record="curve", color="attention", panel="task", log="y"),
    "Cross entropy while training, in nats. Thick lines are means over seeds, thin lines seeds.",
)

if __name__ == "__main__":
    raise SystemExit(paper.main())
