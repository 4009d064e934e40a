"""What do more layers add, what describes them, and what does one mesa layer do? (Fig. 4B)

The paper: on constructed tokens every further linear layer helps; six layers are described by the
few scalars of CompressedAlg; and one mesa layer does what least squares does.

Dimension key: S seeds, B sequences, T positions.
"""

import functools
import itertools
from typing import Any

import jax

from experiments.mesa_optimization import systems
from experiments.mesa_optimization.paper import paper
from ico import lab, models
from ico.report import difference

_DEPTHS = (1, 2, 4, 6)  # that the claims name
_CLIPPED = "LSA-1, clipped as stacks are"


def train_on(run: lab.Run, trained: lab.Trained, depth: int) -> lab.Trained:
    """A model trained on as long as its scalars are, with their recipe: what they compare with."""
    task = systems.system(run.config, count=run.config.batch_size)
    more: dict[str, Any] = {"constructed": True, "start": trained.params}
    return systems.train(run, f"on-linear-{depth}", trained.model, task, _on(run), **more)


def train_scalars(run: lab.Run, trained: lab.Trained, depth: int) -> lab.Trained:
    """CompressedAlg's scalars, trained on from those read off the model of the same seed."""
    dim = run.config.dim
    model = trained.model.clone(head_dim=4 * dim)
    task = systems.system(run.config, count=run.config.batch_size)
    found = lab.train(
        run,
        f"scalars-{depth}",
        model,
        functools.partial(systems.draw, task=task, constructed=True),
        _on(run),
        loss=functools.partial(_scalar_loss, model, dim),
        start=jax.vmap(lambda params: models.block_scalars(params, dim))(trained.params),
    )
    expand = jax.vmap(lambda scalars: models.from_block_scalars(scalars, dim))
    return found.remade(expand(found.params))


def _scalar_loss(model, dim, scalars, batch):
    return systems.next_vector_loss(model, models.from_block_scalars(scalars, dim), batch)


def _on(run: lab.Run) -> lab.Recipe:
    return systems.recipe(run.config.scalar_steps, 1e-3, weight_decay=0.0)


@paper.study("What do more layers add, what describes them, and what does one mesa layer do?")
def deep(run):
    """Depth on constructed tokens, CompressedAlg, one mesa layer, and least squares."""
    config, D = run.config, run.config.dim
    test, other = (systems.held_out(run, name) for name in ("test", "regulariser"))
    by_depth = {depth: systems.train_constructed(run, "linear", depth) for depth in config.depths}
    found = {f"LSA-{depth}": systems.losses(trained, test) for depth, trained in by_depth.items()}
    if 1 in by_depth:
        clipped = systems.train_constructed(run, "linear", 1, systems.CLIP_DEEP)
        found[_CLIPPED] = systems.losses(clipped, test)
    depth, deepest = config.depths[-1], by_depth[config.depths[-1]]
    mesa = systems.train_constructed(run, "mesa", 1)
    for name, trained in {
        f"CompressedAlg-{depth}, read off": systems.compressed(deepest, D),
        f"LSA-{depth}, trained on": train_on(run, deepest, depth),
        f"CompressedAlg-{depth}, trained on": train_scalars(run, deepest, depth),
        "mesa-1": mesa,
    }.items():
        found[name] = systems.losses(trained, test)
    x, other_x = (sequence.inputs[..., D : 2 * D] for sequence in (test, other))
    least, inverse = systems.least_squares((x, x, test.targets), (other_x, other_x, other.targets))
    found["least squares"] = least[None]
    for name, loss_SBT in found.items():
        yield from systems.loss_records(name, loss_SBT, D)
    for name, trained in {f"LSA-{depth}": deepest, "mesa-1": mesa}.items():
        yield lab.record("size", learner=name, entries=trained.num_parameters)
    run.note(
        f"Least squares counts every pair; its regulariser, 1 / {inverse:.3g}, is best on other "
        "sequences. Losses are means over all positions, 1/2 |error|^2."
    )
    run.note(
        "CompressedAlg: products of weights replaced by the mean diagonals of their blocks, 32 "
        "numbers a head and layer. Trained on: those numbers, from there, and in the same way the "
        f"whole model, {config.scalar_steps} steps each."
    )


@deep.claim(
    "monotone",
    "The loss falls with depth, 1, 2, 4, 6 linear layers: the smallest fall",
    "Fig. 4B",
    unit=systems.LOSS,
    band=(0.0, None),
    paper_value=0.020,
)
def falls_with_depth(records):
    """One clip for all depths."""
    names = [_CLIPPED if depth == 1 else f"LSA-{depth}" for depth in _DEPTHS]
    chain = [records[""].one(learner=name)["loss"] for name in names]
    return lab.EveryPair(list(itertools.pairwise(chain)), difference)


deep.claim(
    "two_layers",
    "Two linear layers have a loss of 0.38 to 0.48",
    "Fig. 4B",
    unit=systems.LOSS,
    band=(0.38, 0.48),
    paper_value=0.430,
    of=lab.mean("loss", learner="LSA-2"),
)
over = functools.partial(deep.claim, unit="ratio", source="Fig. 4B")
like_six = functools.partial(over, band=(0.9, 1.1))
like_least_squares = functools.partial(over, band=(None, 1.05))
late = {"source": "Fig. 4B; the positions are ours", "kind": "ours"}
like_six(
    "compressed",
    "Six layers are described by the scalars read off their weights (ratio of losses)",
    of=lab.ratio("loss", learner=("CompressedAlg-6, read off", "LSA-6")),
)
like_six(
    "compressed_late",
    "Also where least squares is determined, at positions from twice the width on",
    of=lab.ratio("late", learner=("CompressedAlg-6, read off", "LSA-6")),
    **late,
)
like_six(
    "compressed_trained",
    "Such scalars, trained on, have the loss of six layers",
    source="Fig. 4B; training on is ours",
    kind="ours",
    of=lab.ratio("loss", learner=("CompressedAlg-6, trained on", "LSA-6, trained on")),
)
like_least_squares(
    "mesa",
    "One mesa layer has the loss of least squares that counts every pair, at its best "
    "regulariser, or less",
    kind="core",
    of=lab.ratio("loss", learner=("mesa-1", "least squares")),
)
like_least_squares(
    "mesa_late",
    "Also at positions from twice the width on, where hardly any of that loss lies",
    of=lab.ratio("late", learner=("mesa-1", "least squares")),
    **late,
)


@over(
    "mesa_size",
    "It has fewer parameters than six linear layers",
    source="section 5",
    band=(None, 0.99),
)
def mesa_size(records):
    """Counted, so without an interval."""
    mesa, linear = (records["size"].one(learner=name)["entries"] for name in ("mesa-1", "LSA-6"))
    return lab.Measurement(mesa / linear, None, 1, 0, f"{mesa} and {linear} numbers")


deep.table("losses", systems.loss_rows("loss"))
deep.note(systems.NOTE, f"Depth is judged with one clip of tokens, {systems.CLIP_DEEP}, for all.")
deep.figure(
    systems.loss_lines(log="y"),
    "Paper, Fig. 4B. Loss by position on constructed tokens: linear layers (LSA) by depth, the "
    "scalars that describe the deepest, one mesa layer, and least squares that counts every pair.",
    name="deep",
)
