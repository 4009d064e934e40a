"""What is lost without the recursion, and what all tasks at once would reach?

Dimension key: S seeds, E test sequences, T tasks, K classes of a task.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.continual_hypertransformer import testbed
from experiments.continual_hypertransformer.paper import paper
from experiments.continual_hypertransformer.testbed import CHT, MERGED, PROTO, SEQUENTIAL
from ico import data, lab


@paper.study("What is lost without the recursion?")
def forgetting_baselines(run):
    """Sequences as long as those of training; an image's task is known."""
    images, length = testbed.classes(run).test, run.config.num_tasks
    for name in (CHT, SEQUENTIAL, PROTO):
        found = testbed.trained(run, name)
        yield testbed.scored(name, testbed.accuracy(run, found, images, length))
    merged = testbed.trained(run, MERGED)
    right = _within_tasks(run, merged, images, length)
    yield lab.record(model=MERGED, accuracy=100 * right, transfer=np.zeros_like(right))


def _within_tasks(run, found, images, length) -> np.ndarray:
    """Of one network for all tasks: right answers among the classes of an image's task, [S, E]."""
    few, _ = testbed.sequences(run, length)
    K = run.config.way
    arrays = jax.tree.map(jnp.asarray, images.arrays)

    @jax.jit
    def all_of(params, arrays, keys):
        def of_sequence(key):
            episode = data.few_shot(key, few, arrays)
            tasks = testbed.in_tasks(episode, 1)
            answer_Q = tasks.y_query[0, 0].argmax(-1)

            def one(params):
                scores_QK = found.model.apply({"params": params}, tasks)[0, 0, 0]
                own = jnp.arange(scores_QK.shape[-1])[None] // K == answer_Q[:, None] // K
                return (jnp.where(own, scores_QK, -jnp.inf).argmax(-1) == answer_Q).mean()

            return jax.vmap(one)(params)

        return jax.lax.map(of_sequence, keys, batch_size=10).T

    keys = jax.random.split(run.key("test"), run.config.test_episodes)
    return np.asarray(all_of(found.params, arrays, keys))


forgetting_baselines.claim(
    "recursion",
    "Without the recursion, each network written from the same start, backward transfer is worse",
    "ours",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lab.difference("transfer", model=(CHT, SEQUENTIAL)),
)
forgetting_baselines.table("accuracy after the last task", lab.rows("accuracy", also=("transfer",)))
forgetting_baselines.figure(
    lab.bars("accuracy", x="model", ylabel="accuracy, %", xlabel=""),
    "Accuracy over all tasks after the last of three, with 95% intervals over seeds and sequences; "
    "'all tasks at once' sees all support images together.",
)
