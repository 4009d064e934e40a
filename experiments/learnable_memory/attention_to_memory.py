"""Where do class tokens look, and how much at memory?

Dimension key: S seeds, B images, L blocks, H heads, M memory tokens.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learnable_memory import testbed
from experiments.learnable_memory.paper import paper
from experiments.learnable_memory.testbed import FIVE
from ico import lab, models

_IMAGES = 200


@paper.study("How much does a task's class token look at its memory?")
def attention_to_memory(run):
    """Of five trained cells, and of cells as they start."""
    vit = testbed.backbone_model(run)
    params = testbed.backbone(run).params["vit"]
    for target, images in testbed.targets(run).items():
        found = testbed.adapt(run, FIVE, target)
        pixels = jnp.asarray(images.test.pixels[:_IMAGES], jnp.float32) / 127.5 - 1
        start = jax.vmap(lambda p, way=found.way: way.init(jax.random.key(0), p))(params)
        read = jax.jit(
            jax.vmap(functools.partial(models.attention_to_memory, vit), in_axes=(0, 0, None))
        )
        for state, moving in (("trained", found.params), ("at the start", start)):
            share_SLB = 100 * np.asarray(read(params, moving, pixels))
            for block in range(run.config.depth):
                share = share_SLB[:, block]
                yield lab.record(target=target, cells=state, block=block + 1, share=share)


attention_to_memory.note(
    "Of all that the class token may look at, 5 of 23 tokens are memory (with patches of 4): 22% "
    "is what it would give them if it did not choose."
)
attention_to_memory.claim(
    "looks",
    "After training a task's class token looks more at its memory than at the start",
    "ours",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lab.every(lab.difference("share", cells=("trained", "at the start")), target=..., block=...),
)
attention_to_memory.table("attention to memory, %", lab.rows("share"))
attention_to_memory.figure(
    lab.lines(
        "block",
        "share",
        color="cells",
        panel="target",
        xlabel="block",
        ylabel="attention to memory, %",
    ),
    "Share of its attention that a task's class token gives to its five cells, by block, with 95% "
    "intervals over seeds and images.",
)
