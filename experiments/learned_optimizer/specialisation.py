"""Does an optimizer belong to its task, and a learning rate to its layer?

The title, "Narrowing the Focus"; the abstract: it "learns a layer-specific linear combination of
update directions".
"""

from experiments.learned_optimizer.learners import specialised
from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import layer_names, problems
from experiments.learned_optimizer.races import losses_at_end
from ico import lab, report

_ONE_LAYER, _BY_LAYER = "one layer for all", "by layer"


@paper.study("Does an optimizer belong to its task, and a step to its layer?")
def specialisation(run):
    """Records "transfer", one a pair of tasks, and "layers", two a task: loss [R, N]."""
    tasks = problems(run)
    for used_on, of in tasks.items():
        for trained_on in tasks:
            # L3RS has an embedding a layer, so it fits networks with the same number of layers.
            if len(layer_names(tasks[trained_on])) == len(layer_names(of)):
                found = losses_at_end(run, of, specialised(run, "l3rs", trained_on))
                yield lab.record("transfer", used_on=used_on, trained_on=trained_on, **found)
        for kind, ablation in ((_BY_LAYER, ""), (_ONE_LAYER, _ONE_LAYER)):
            found = losses_at_end(run, of, specialised(run, "l3rs", used_on, ablation))
            yield lab.record("layers", task=used_on, kind=kind, **found)


@specialisation.claim(
    "diagonal",
    "An optimizer trained on a task is better there than those trained on other tasks (the "
    "smallest difference)",
    "title; the matrix is ours",
    unit="nats",
    band=(0.0, None),
    kind="ours",
)
def _(records):
    transfer = records["transfer"]
    pairs = [
        (one["loss"], transfer.one(used_on=one["used_on"], trained_on=one["used_on"])["loss"])
        for one in transfer
        if one["used_on"] != one["trained_on"]
    ]
    if not pairs:
        raise lab.Missing("this run has no two tasks with networks of the same number of layers")
    rate = transfer.failure_rate()
    return lab.EveryPair(pairs, report.difference, failure_rate=rate, runs=True)


_by_layer = lab.difference("loss", record="layers", kind=(_ONE_LAYER, _BY_LAYER))
specialisation.claim(
    "per_layer",
    "Steps and mixes by layer are better than one for all layers, on every task (the smallest "
    "difference)",
    "abstract",
    unit="nats",
    band=(0.0, None),
    kind="core",
    of=lab.every(_by_layer, runs=True, task=...),
)


specialisation.table(
    "used on, by trained on",
    lab.grid("loss", record="transfer", rows=("used_on",), columns="trained_on"),
)


@specialisation.table("by layer")
def _(records):
    means = lab.grid("loss", record="layers", rows=("task",), columns="kind")(records)
    for row in means:
        sides = _by_layer.sides(records, task=row["task"])[:2]
        gap, (low, high) = report.interval(*sides, statistic=report.difference)
        row |= {"difference": gap, "95% low": low, "95% high": high}
    return means


_AXES = {"x": "used_on", "color": "trained_on", "xlabel": "used on", "ylabel": "test loss, nats"}
specialisation.figure(
    lab.bars("loss", record="transfer", **_AXES),
    "Test loss of L3RS by the task it is used on (groups) and the one it was trained on (colours).",
    name="specialisation_transfer",
)
specialisation.note(
    "An optimizer fits networks with the same number of layers (all of the cpu preset have three). "
    "Test losses at the horizon, in a row from the same starts on the same batches. One "
    "meta-training each."
)
