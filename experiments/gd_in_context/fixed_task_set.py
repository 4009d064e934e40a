"""How many training tasks does it take? (Figs. 15 and 16)

One layer is trained on a finite set of tasks and tested on fresh ones.
"""

from experiments.gd_in_context import regression
from experiments.gd_in_context.paper import paper
from experiments.gd_in_context.regression import GD
from ico import lab, tasks
from ico.models import LinearTransformer, learner

FRESH, OWN = "layer, fresh tasks", "layer, its own tasks"


@paper.study("How many training tasks does it take?")
def fixed_task_set(run):
    """One layer trained on each number of tasks; of each size one set, which all seeds share."""
    task, model, count = regression.task_of(run), LinearTransformer(), run.config.curve_tasks
    test = regression.draw(run, "fixed_task_set/test")
    curve_test = regression.draw(run, "fixed_task_set/curve", count=count)
    descent = {GD: regression.gradient_step(run)}
    (gd,), (gd_curve,) = (regression.compared(descent, some) for some in (test, curve_test))

    # One function object for all sizes: the loop compiles its evaluation once.
    def evaluate(params):
        prediction = learner(model)(params, curve_test.prompt)
        return {"loss": tasks.half_squared_error(prediction, curve_test.y_query).mean()}

    for size in sorted(run.config.task_set_sizes):
        episodes = regression.draw(run, f"fixed_task_set/{size}", count=size)
        trained = lab.train(
            run,
            f"fixed_task_set-{size}",
            model,
            tasks.fixed_task_set(episodes, min(size, task.batch_size)),
            regression.recipe(run, run.config.task_set_steps),
            evaluate=evaluate,
            spec={"task": task, "tasks": size, "curve_tasks": count},
        )
        for name, episode in ((FRESH, test), (OWN, episodes)):
            yield from regression.compared({name: trained}, episode, tasks=size)
        yield lab.record(tasks=size, learner=GD, loss=gd["loss"])
        name, history = f"{size:,} tasks", trained.history
        yield regression.curve(trained, learner=name, on="its own tasks")
        fresh = {"step": history["eval/step"], "loss": history["eval/loss"].T}
        yield lab.record("curve", learner=name, on="fresh tasks", **fresh)
    for on in ("its own tasks", "fresh tasks"):
        yield regression.level(gd_curve["loss"], trained, learner=f"{GD}, fresh tasks", on=on)
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
    regression.while_training(panel="on", log="y"),
    "Paper, Figs. 15 and 16. One layer trained on finite sets of tasks: loss on those and on fresh "
    "tasks while training, and the loss of one gradient step on fresh tasks. Logarithmic loss "
    f"axes. {regression.SEEDS}",
    name="fixed_task_set_curves",
)
fixed_task_set.figure(
    regression.along("tasks", "tasks trained on", log="xy"),
    "Paper, Figs. 15 and 16. Loss after training against the number of tasks trained on, on fresh "
    "tasks and on the trained tasks themselves, beside one gradient step, with 95% intervals. "
    "Logarithmic axes.",
    name="fixed_task_set_sizes",
)
