"""How do the written kernels change from episode to episode?

Dimension key: S seeds, T episodes, L layers, C and F channels.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from ico import data, lab, report

TRAINED, UNTRAINED = "trained", "not trained"
_EPISODES = 64
_SHOWN = 4


@paper.study("How do the written kernels change from episode to episode?")
def kernels(run):
    """Of the smallest network whose layers are all written."""
    channels, way, shot = (min(x) for x in (run.config.channels, run.config.ways, run.config.shots))
    found = testbed.trained(run, testbed.ALL, channels, way, shot)
    config = testbed.episodes(run, way, shot, num_tasks=_EPISODES)
    arrays = jax.tree.map(jnp.asarray, testbed.classes(run).test.arrays)
    prompt = data.few_shot(run.key("kernels"), config, arrays).prompt
    untrained = jax.vmap(lambda key: found.model.init(key, prompt)["params"])
    keys = jax.random.split(run.key("untrained"), run.num_seeds)
    before = dataclasses.replace(found, params=jax.jit(untrained)(keys))
    for of, one in ((TRAINED, found), (UNTRAINED, before)):
        written = _written(one, prompt)
        for layer in range(run.config.num_convs):
            yield lab.record(of=of, layer=layer + 1, change=_change(written[f"conv_{layer}"]))
    written = _written(found, prompt)
    first = written["conv_0"]["kernel"][0][..., 0, :]  # [T, 3, 3, F] of the first seed
    for channel in range(first.shape[-1]):
        shown = np.concatenate([first[:_SHOWN, ..., channel], [first[..., channel].std(0)]])
        yield lab.record("kernel", channel=f"channel {channel + 1}", weights=shown)


def _written(trained, prompt):
    """The networks of every seed for every episode."""
    return trained.mapped(
        lambda params: trained.model.apply({"params": params}, prompt, method="write")[0]
    )


def _change(layer) -> np.ndarray:
    """How far kernels are from their mean over the episodes, % of their own size, [S, T]."""
    kernel = layer["kernel"]  # [S, T, 3, 3, C, F]
    gap = np.abs(kernel - kernel.mean(1, keepdims=True)).mean((2, 3, 4, 5))
    return 100 * gap / np.abs(kernel).mean((1, 2, 3, 4, 5))[:, None]


def _changes(records, of):
    """Of all convolutions together."""
    return np.concatenate([r["change"] for r in records[""].where(of=of)], axis=1)


def mean_change(records):
    """Of the trained, in per cent."""
    return lab.measured(_changes(records, TRAINED))


def over_untrained(records):
    """Of the trained over that of untrained ones."""
    return lab.measured(
        _changes(records, TRAINED), _changes(records, UNTRAINED), statistic=report.ratio
    )


kernels.claim(
    "change",
    "Written kernels change by 5 to 30% from episode to episode",
    "Figures 9 to 12 (theirs by 10 to 15%; how they measure it was not consulted)",
    unit="%",
    band=(5, 30),
    of=mean_change,
)
kernels.claim(
    "learned",
    "They change more than those of a transformer that has not been trained",
    "control",
    kind="ours",
    unit="ratio",
    band=(1.0, None),
    of=over_untrained,
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
