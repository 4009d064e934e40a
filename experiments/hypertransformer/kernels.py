"""How do the written kernels change from episode to episode?

Dimension key: S seeds, T episodes, L layers, C and F channels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from ico import data, lab

_EPISODES = 64
_SHOWN = 4


@paper.study("How do the written kernels change from episode to episode?")
def kernels(run):
    """Of the smallest network whose layers are all written."""
    channels, way, shot = (min(x) for x in (run.config.channels, run.config.ways, run.config.shots))
    found = testbed.trained(run, testbed.ALL, channels, way, shot)
    config = testbed.episodes(run, way, shot, num_tasks=_EPISODES)
    arrays = jax.tree.map(jnp.asarray, testbed.letters(run).test.arrays)
    prompt = data.few_shot(run.key("kernels"), config, arrays).prompt
    written = found.mapped(
        lambda params: found.model.apply({"params": params}, prompt, method="write")[0]
    )
    for layer in range(run.config.num_convs):
        kernel = written[f"conv_{layer}"]["kernel"]  # [S, T, 3, 3, C, F]
        # How far a kernel is from its mean over the episodes, in units of its own size.
        gap = np.abs(kernel - kernel.mean(1, keepdims=True)).mean((2, 3, 4, 5))
        size = np.abs(kernel).mean((1, 2, 3, 4, 5))
        yield lab.record(layer=layer + 1, change=100 * gap / size[:, None])
    first = written["conv_0"]["kernel"][0][..., 0, :]  # [T, 3, 3, F] of the first seed
    for channel in range(first.shape[-1]):
        shown = np.concatenate([first[:_SHOWN, ..., channel], [first[..., channel].std(0)]])
        yield lab.record("kernel", channel=f"channel {channel + 1}", weights=shown)


def mean_change(records):
    """The mean change of all convolutions, in per cent."""
    return lab.measured(np.concatenate([r["change"] for r in records[""]], axis=1))


kernels.claim(
    "change",
    "Written kernels change by 5 to 30% from episode to episode",
    "Figures 9 to 12 (theirs by 10 to 15%; how they measure it was not consulted)",
    unit="%",
    band=(5, 30),
    of=mean_change,
)
kernels.table("change of the kernels", lab.rows("change"))
kernels.figure(
    lab.maps(
        "weights",
        record="kernel",
        each=(*(f"episode {i + 1}" for i in range(_SHOWN)), "spread"),
        low=None,
        high=lambda matrices: float(np.abs(matrices).max()),
    ),
    "Kernels of the first convolution as they are written for four episodes, and their standard "
    "deviation over 64; a row a channel.",
)
