"""Do tasks added one after the other leave each other, and the model itself, as they are?

Dimension key: S seeds, T test images, B images, N tasks.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.learnable_memory import testbed
from experiments.learnable_memory.paper import paper
from experiments.learnable_memory.testbed import FIVE
from ico import lab, models

_IMAGES = 64
APART, EXTENDED = "on its own", "on top of the first"


@paper.study("Do tasks that are added leave each other, and the model, as they are?")
def multi_task(run):
    """Tasks of five cells: concatenated, and one extending another."""
    config = run.config
    names = list(config.targets)
    found = {name: testbed.adapt(run, FIVE, name) for name in names}
    trained, vit = testbed.backbone(run), testbed.backbone_model(run)
    images = jnp.asarray(testbed.targets(run)[names[0]].test.pixels[:_IMAGES], jnp.float32)
    images = images / 127.5 - 1
    for seed in range(trained.num_seeds):
        params = trained.seed(seed)["vit"]
        tasks = {
            name: jax.tree.map(lambda leaf, s=seed: leaf[s], one.params)
            for name, one in found.items()
        }
        alone = {name: _read(vit, params, {name: tasks[name]}, images) for name in names}
        yield lab.record(seed=seed, **_changes(vit, params, tasks, alone, images, None))
    yield lab.record("operations", **_operations(vit, trained.seed(0)["vit"], tasks))
    yield from _extension(run, names, found)


def _read(vit, params, tasks, images, extends=None):
    run = jax.jit(lambda p, t, x: models.memory_logits(vit, p, t, x, extends=extends))
    return run(params, tasks, images)


def _changes(vit, params, tasks, alone, images, extends):
    """By how much answers change, relative to the largest: of the model, and of each task."""
    base = vit.apply({"params": params}, images)
    together, tokens = _read(vit, params, models.concatenate_tasks(tasks), images)
    first, last = list(tasks)[0], list(tasks)[-1]
    extended, extended_tokens = _read(vit, params, tasks, images, {last: [first]})
    dropped, _ = _read(vit, params, models.drop_tasks(tasks, last), images)

    def gap(a, b):
        return np.asarray(jnp.abs(a - b).max() / jnp.abs(b).max())

    return {
        "model": np.maximum(gap(tokens, base), gap(extended_tokens, base)),
        "tasks": np.max([gap(together[n], alone[n][0][n]) for n in tasks]),
        "others": np.max([gap(x[first], alone[first][0][first]) for x in (extended, dropped)]),
    }


def _operations(vit, params, tasks) -> dict:
    """Of an image's pass with all tasks, over those with one, and those of as many passes."""
    image = jnp.zeros((1, 16, 16, 1))

    def count(some):
        run = jax.jit(lambda p, t: models.memory_logits(vit, p, t, image)[0])
        return float((run.lower(params, some).compile().cost_analysis() or {}).get("flops", np.nan))

    one = count({name: tasks[name] for name in list(tasks)[:1]})
    return {"in_one_pass": len(tasks), "over_one": np.asarray(count(tasks) / one)}


def _extension(run, names, found):
    """The last target learned on its own, and on top of the first one's memory."""
    first, last = names[0], names[-1]
    yield lab.record("extension", learned=APART, accuracy=100 * found[last].right)
    over = testbed.adapt(run, FIVE, last, below=first)
    yield lab.record("extension", learned=EXTENDED, accuracy=100 * over.right)


def largest(name):
    """Over seeds."""
    return lambda records: lab.Measurement(max(float(r[name]) for r in records[""]), None, 0, 0)


multi_task.claim(
    "model_unchanged",
    "What the model gives does not change when tasks are added, concatenated or extended",
    "abstract and Table 1",
    kind="core",
    unit="relative error",
    band=(None, 1e-5),
    of=largest("model"),
)
multi_task.claim(
    "tasks_unchanged",
    "Concatenated tasks, trained apart, answer as each does alone",
    "abstract and Table 1",
    kind="core",
    unit="relative error",
    band=(None, 1e-5),
    of=largest("tasks"),
)
multi_task.claim(
    "others_unchanged",
    "A task's answers do not change when another extends it or is dropped",
    "Table 1",
    unit="relative error",
    band=(None, 1e-5),
    of=largest("others"),
)
multi_task.claim(
    "one_pass",
    "Four tasks in one pass take at most 1.6 times the operations of one",
    "abstract (shared computation)",
    kind="core",
    unit="ratio",
    band=(None, 1.6),
    of=lab.exact("over_one", record="operations", in_one_pass=4),
)
multi_task.claim(
    "extension",
    "A task learned on top of another is at least as good as on its own, within one point",
    "ours",
    kind="ours",
    unit="points",
    band=(-1.0, None),
    of=lab.difference("accuracy", record="extension", learned=(EXTENDED, APART)),
)
multi_task.table("accuracy of an extension", lab.rows("accuracy", record="extension"))
multi_task.figure(
    lab.bars("accuracy", x="learned", record="extension", ylabel="accuracy, %", xlabel=""),
    "Accuracy of the last target, learned on its own and on top of the first, with 95% intervals.",
)
