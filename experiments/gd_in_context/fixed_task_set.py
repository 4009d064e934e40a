"""How many training tasks does it take? (Figs. 15 and 16)

One layer is trained on a finite set of tasks and tested on fresh ones.
"""

from experiments.gd_in_context.paper import (
    GD,
    LOSS,
    SEEDS,
    STEP,
    compared,
    curve,
    draw,
    level,
    paper,
    recipe,
    searched_rate,
    task_of,
)
from ico import algorithms, lab, tasks
from ico.models import LinearTransformer, learner

FRESH, OWN = "layer, fresh tasks", "layer, its own tasks"


@paper.study("How many training tasks does it take?")
def fixed_task_set(run):
    """One layer trained on each number of tasks; of each size one set, which all seeds share."""
    task, model, rate = task_of(run), LinearTransformer(), searched_rate(run)
    test = draw(run, "fixed_task_set/test", task)
    curve_test = draw(run, "fixed_task_set/curve", task, run.config.curve_tasks)
    descent = {GD: (algorithms.gd, rate)}
    (gd,), (gd_curve,) = compared(descent, test), compared(descent, curve_test)

    # One function object for all sizes: the loop compiles its evaluation once.
    def evaluate(params):
        prediction = learner(model)(params, curve_test.prompt)
        return {"loss": tasks.half_squared_error(prediction, curve_test.y_query).mean()}

    for size in sorted(run.config.task_set_sizes):
        episodes = draw(run, f"fixed_task_set/{size}", task, size)
        trained = lab.train(
            run,
            f"fixed_task_set-{size}",
            model,
            tasks.fixed_task_set(episodes, min(size, task.batch_size)),
            recipe(run, run.config.task_set_steps),
            evaluate=evaluate,
            spec={"task": task, "tasks": size, "curve_tasks": run.config.curve_tasks},
        )
        for name, episode in ((FRESH, test), (OWN, episodes)):
            yield from compared({name: trained}, episode, tasks=size)
        yield lab.record(tasks=size, learner=GD, loss=gd["loss"])
        yield curve(trained, tasks=f"{size:,} tasks", on="its own tasks")
        steps, loss = (trained.history[f"eval/{name}"].T for name in ("step", "loss"))
        fresh = {"tasks": f"{size:,} tasks", "on": "fresh tasks"}
        yield lab.record("curve", **fresh, step=steps, loss=loss)
    for on in ("its own tasks", "fresh tasks"):
        yield level(gd_curve["loss"], trained, tasks="gradient descent, fresh tasks", on=on)
    run.note(
        "Of each size one set is drawn, which all seeds share: the interval is over seeds and test "
        f"tasks. Sets of up to {task.batch_size} tasks are one batch, larger ones are drawn from."
    )


fixed_task_set.claim(
    "falls_with_tasks",
    "Test loss falls with the number of training tasks: the smallest fall between sizes",
    "Figs. 15 and 16",
    unit="half squared error",
    band=(0.0, None),
    of=lab.falls("loss", along="tasks", learner=FRESH),
)
fixed_task_set.table("losses", lab.rows("loss"))
fixed_task_set.figure(
    lab.lines(
        "step",
        "loss",
        record="curve",
        color="tasks",
        panel="on",
        xlabel=STEP,
        ylabel=LOSS,
        log="y",
    ),
    "Paper, Figs. 15 and 16. One layer trained on finite sets of tasks: loss on those and on fresh "
    "tasks while training, and the loss of one gradient step on fresh tasks. Logarithmic loss "
    f"axes. {SEEDS}",
    name="fixed_task_set_curves",
)
fixed_task_set.figure(
    lab.lines("tasks", "loss", color="learner", xlabel="tasks trained on", ylabel=LOSS, log="xy"),
    "Paper, Figs. 15 and 16. Loss after training against the number of tasks trained on, on fresh "
    "tasks and on the trained tasks themselves, beside one gradient step, with 95% intervals. "
    "Logarithmic axes.",
    name="fixed_task_set_sizes",
)
