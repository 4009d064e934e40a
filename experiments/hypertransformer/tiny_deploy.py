"""What is left once a network is written: how small is it, and does it do the same alone?

Dimension key: T episodes.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.hypertransformer import testbed
from experiments.hypertransformer.paper import paper
from ico import data, lab, models
from ico.files import load_tree, save_tree

_EPISODES = 32


@paper.study("How small is a written network, and does it do the same alone?")
def tiny_deploy(run):
    """Of each width: written once, saved, read again, and run without the transformer."""
    way, shot = min(run.config.ways), min(run.config.shots)
    arrays = jax.tree.map(jnp.asarray, testbed.classes(run).test.arrays)
    for channels in run.config.channels:
        found = testbed.trained(run, testbed.ALL, channels, way, shot)
        config = testbed.episodes(run, way, shot, num_tasks=_EPISODES)
        prompt = data.few_shot(run.key("deploy"), config, arrays).prompt
        params, model = found.seed(0), found.model
        weights, _ = model.apply({"params": params}, prompt, method="write")
        logits = model.apply({"params": params}, prompt)

        network = jax.tree.map(lambda leaf: np.asarray(leaf[0]), weights)
        path = run.directory / f"network-{channels}.npz"
        save_tree(path, network)
        images = prompt.x_query.reshape(*prompt.x_query.shape[:2], *model.image_shape)
        alone = jax.jit(models.convnet)(load_tree(path), images[0])
        whole, tiny = _flops(model, params, prompt), _flops_alone(network, images[0][:1])
        size = sum(leaf.size for leaf in jax.tree.leaves(network))
        yield lab.record(
            channels=channels,
            error=np.asarray(jnp.abs(alone - logits[0]).max() / jnp.abs(logits[0]).max()),
            parameters=np.asarray(size),
            share=np.asarray(100 * size / found.num_parameters),
            bytes=np.asarray(path.stat().st_size),
            operations=np.asarray(tiny),
            writing=np.asarray(whole),
        )


def _flops(model, params, prompt) -> float:
    """Floating-point operations of writing one network."""
    one = jax.tree.map(lambda leaf: leaf[:1], prompt)
    write = jax.jit(lambda params, p: model.apply({"params": params}, p, method="write")[0])
    return _of_program(write.lower(params, one))


def _flops_alone(network, image) -> float:
    """Of classifying one image."""
    return _of_program(jax.jit(models.convnet).lower(network, image))


def _of_program(lowered) -> float:
    return float((lowered.compile().cost_analysis() or {}).get("flops", np.nan))


def largest(name):
    """Of all widths."""
    return lambda records: lab.Measurement(max(float(r[name]) for r in records), None, 0, 0)


tiny_deploy.claim(
    "alone",
    "A written network, saved and read again, gives the transformer's own answers",
    "identity",
    kind="ours",
    unit="relative error",
    band=(None, 1e-5),
    of=largest("error"),
)
tiny_deploy.table(
    "size",
    lambda records: [
        {
            "channels": r["channels"],
            "parameters": int(r["parameters"]),
            "% of the transformer's": float(r["share"]),
            "bytes on disk": int(r["bytes"]),
            "operations an image": float(r["operations"]),
            "operations to write it": float(r["writing"]),
        }
        for r in records
    ],
)
