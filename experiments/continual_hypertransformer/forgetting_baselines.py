"""What is lost without the recursion, or by gradient descent; what would all tasks at once reach?

Dimension key: S seeds, E test sequences, T tasks, K classes of a task.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.continual_hypertransformer import in_order, testbed
from experiments.continual_hypertransformer.paper import paper
from experiments.continual_hypertransformer.testbed import CHT, MERGED, PROTO, SEQUENTIAL
from ico import data, lab, report


@paper.study("What is lost without the recursion, or by gradient descent?")
def forgetting_baselines(run):
    """Sequences as long as those of training; an image's task is known."""
    images, length = testbed.classes(run).test, run.config.num_tasks
    for name in (CHT, SEQUENTIAL, PROTO):
        found = testbed.trained(run, name)
        yield testbed.scored(name, testbed.accuracy(run, found, images, length))
    for name, right in in_order.scores(run, images, length):
        yield testbed.scored(name, right)
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


def above_gradient_descent(records):
    """The lead over each of them, in points."""
    ours = records.one(model=CHT)["accuracy"]
    pairs = [(ours, records.one(model=name)["accuracy"]) for name in in_order.PENALTIES]
    return lab.EveryPair(pairs, report.difference, f"over {', '.join(in_order.PENALTIES)}")


forgetting_baselines.claim(
    "recursion",
    "Without the recursion, each network written from the same start, backward transfer is worse",
    "ours",
    kind="ours",
    unit="points",
    band=(0, None),
    of=lab.difference("transfer", model=(CHT, SEQUENTIAL)),
)
forgetting_baselines.claim(
    "above_gradient_descent",
    "Accuracy is above that of gradient descent on a trained network, free or held by EWC or LwF",
    "ours",
    kind="ours",
    unit="points",
    band=(0, None),
    of=above_gradient_descent,
)
forgetting_baselines.table("accuracy after the last task", lab.rows("accuracy", also=("transfer",)))
forgetting_baselines.figure(
    lab.bars("accuracy", x="model", ylabel="accuracy, %", xlabel=""),
    "Accuracy over all tasks after the last of three, with 95% intervals over seeds and sequences. "
    "Gradient descent, free or with a penalty against forgetting, starts from a network trained on "
    "all training classes; 'all tasks at once' sees all support images together.",
)
