"""Can one layer of attention write the prototypes of a ProtoNet? By hand, exactly.

Dimension key: B episodes, K classes, D features.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from ico import algorithms, data, lab, models
from ico.algorithms import constructions

_EPISODES = 32


@paper.study("Can one layer of attention write prototypes?")
def attention_is_prototype(run):
    """Weights set by hand, on features of a network that was drawn at random."""
    channels, way, size = max(run.config.channels), 5, run.config.image_size
    convs = run.config.num_convs
    model = models.HyperTransformer(
        (size, size, 1),
        way,
        channels,
        convs,
        tuple(range(convs)),
        num_blocks=1,
        num_heads=1,
        norm=False,
        shared_dim=0,
        head_reads="features",
    )
    config = testbed.episodes(run, way, 2, 1, num_tasks=_EPISODES)
    arrays = jax.tree.map(jnp.asarray, testbed.classes(run).test.arrays)
    prompt = data.few_shot(run.key("prototypes"), config, arrays).prompt
    params = model.init(run.key("features"), prompt)["params"]
    num_features = model.shapes["head"]["kernel"][0]
    params = params | constructions.prototype_head(way, num_features, model.code_dim)
    weights, _ = model.apply({"params": params}, prompt, method="write")

    images = prompt.x.reshape(*prompt.x.shape[:2], size, size, 1)
    features, _ = jax.vmap(models.convnet_features)(weights, images)
    means = algorithms.class_means(features, prompt.y)
    error = jnp.abs(jnp.swapaxes(weights["head"]["kernel"], 1, 2) - means).max()
    yield lab.record(error=np.asarray(error / jnp.abs(means).max()))


attention_is_prototype.claim(
    "prototypes",
    "One layer of attention, set by hand, writes a head of class means",
    "section 3.2",
    kind="paper",
    unit="relative error",
    band=(None, 1e-5),
    of=lab.exact("error", num_tasks=_EPISODES),
)
