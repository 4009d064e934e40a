"""Do optimizers learn, and at what price?

All meta-trainings that the contest needs are done here. The optimizers are saved in the run's
folder "optimizers", for `ico.optim.load`.
"""

import jax
import numpy as np

from experiments.learned_optimizer import learners
from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import problems
from experiments.learned_optimizer.races import losses_at_end
from ico import lab
from ico.metatrain import MetaTrained


@paper.study("Do optimizers learn, and at what price?")
def meta_train(run):
    """Records "meta-training", one an attempt, and "by chance", one a draw of L3RS."""
    tasks = problems(run)
    each = [{task: problem} for task, problem in tasks.items()]
    together = [tasks] if len(tasks) > 1 else []
    wanted = [("l3rs", "", each)]
    if run.config.without_average:
        wanted.append(("l3rs", learners.NO_AVERAGE, each))
    wanted += [(rival, "", each + together) for rival in run.config.rivals]
    for name, ablation, groups in wanted:
        for on in groups:
            found = learners.attempts(run, name, on, ablation)
            for trained in found:
                yield _record(trained, on, trained is found[-1])
            if (name, ablation) == ("l3rs", ""):
                yield from _by_chance(run, on, [trained.draw for trained in found])


def _by_chance(run, on, done: list[int]):
    """Meta-trainings of L3RS that differ in their random keys alone."""
    ((task, problem),) = on.items()
    for draw in range(run.config.meta_draws):
        trained = learners.meta_train(run, "l3rs", on, draw=draw)
        if draw not in done:
            yield _record(trained, on, False)
        loss = losses_at_end(run, problem, trained)["loss"]
        yield lab.record("by chance", task=task, draw=draw + 1, loss=loss)


def _record(trained: MetaTrained, on, is_racing: bool) -> lab.Record:
    learned, ablation = trained.learned, trained.variant
    return lab.record(
        "meta-training",
        optimizer=learned.learner.name + (f", {ablation}" if ablation else ""),
        trained_on=learners.trained_on(on),
        draw=trained.draw + 1,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(learned.theta)),
        status="races" if is_racing else "failed" if learned.failed else "",
        step=learned.history["step"],
        loss=learned.history["loss"],
        first_tenth=np.asarray(learned.first_loss),
        last_tenth=np.asarray(learned.last_loss),
        million_inner_steps=np.asarray(trained.inner_steps / 1e6),
        seconds=np.asarray(trained.seconds),
        failure_rate=np.asarray(trained.failure_rate),
    )


@meta_train.table("meta-training")
def _(records):
    shown = "first_tenth", "last_tenth", "million_inner_steps", "seconds"
    return [
        dict(one.axes) | {name: float(one[name]) for name in shown}
        for one in records["meta-training"]
    ]


@meta_train.table("by chance, by meta-training")
def _(records):
    rows = lab.grid("loss", record="by chance", rows=("task",), columns="draw")(records)
    for row in rows:
        ends = [loss for column, loss in row.items() if column != "task"]
        row["largest over smallest"] = max(ends) / min(ends)
    return rows


_PANELS = {"panel": "trained_on", "xlabel": "outer step", "ylabel": "meta-loss, nats", "log": "y"}
meta_train.figure(
    lab.lines("step", "loss", record="meta-training", color="optimizer", status="races", **_PANELS),
    "Meta-losses along meta-training, on images that are not trained on.",
    name="meta_losses",
)
meta_train.note(
    "The meta-loss is measured on images that are not trained on, those by which hand-designed "
    "optimizers are tuned. Every meta-training gets the same number of inner steps.",
    "Meta-trainings of one optimizer differ in their random keys alone. The first that did not "
    "fail races; a meta-training fails if it ends with a larger meta-loss than it began with. "
    "Further ones of L3RS show how far chance matters.",
)
