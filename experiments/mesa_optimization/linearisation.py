"""Can softmax layers that solve linear systems be replaced by linear ones? (Fig. 5)

Dimension key: S seeds, B sequences, T positions, E token width, N inputs.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import systems
from experiments.mesa_optimization.paper import paper
from ico import lab, tasks
from ico.models import Mixer, SequenceTransformer, sinusoidal_positions


@paper.study("Can softmax layers be replaced by linear ones?")
def linearisation(run):
    """Each softmax layer in turn replaced by a linear one that was fitted to its output."""
    config = run.config
    fit = systems.recipe(config.linearisation_steps, config.full_learning_rate)
    for n in config.linearisation_dims:
        trained = systems.train(
            run, f"softmax-{n}", softmax_model(config, n), _task(n, config.batch_size), fit
        )
        test = systems.draw_jit(run.key(f"linearisation/{n}"), task=_task(n, config.eval_sequences))
        whole = systems.losses(trained, test).mean(-1)
        for layer in range(config.linearisation_layers):
            replaced = replace_layer(run, trained, n, layer)
            yield lab.record(
                inputs=n,
                layer=layer + 1,
                loss=systems.losses(replaced, test).mean(-1),
                softmax=whole,
                not_fitted=np.asarray(not_fitted(trained, replaced, test, layer)),
            )


def softmax_model(config, n: int) -> SequenceTransformer:
    """Softmax layers alone, for sequences of four times as many positions as inputs."""
    kinds = ("softmax",) * config.linearisation_layers
    widths: dict[str, Any] = dict.fromkeys(("embed_dim", "position_dim", "chunk_size"), 4 * n)
    return SequenceTransformer(kinds, n, n, num_heads=4, head_dim=2 * n, **widths)


def _task(n: int, count: int) -> tasks.Dynamics:
    return tasks.Dynamics(count, 4 * n, n)


def replace_layer(run: lab.Run, trained: lab.Trained, n: int, layer: int) -> lab.Trained:
    """The model with one layer replaced by a linear one, fitted to its output on its inputs."""
    config, width = run.config, 4 * n
    mixer = Mixer("linear", 4, 2 * n, init_std=0.05, chunk_size=4 * n)
    code = jnp.zeros((4 * n, width)) if layer == 0 else None
    keys = jax.random.split(run.key(f"linear/{n}/{layer}"), config.num_seeds)
    start = jax.vmap(lambda key: mixer.init(key, jnp.zeros((1, 4 * n, width)), code)["params"])
    found = lab.train(
        run,
        f"linearised-{n}-{layer}",
        mixer,
        functools.partial(systems.draw, task=_task(n, config.batch_size)),
        systems.recipe(config.linear_fit_steps, 5e-3, weight_decay=0.0),
        loss=functools.partial(_fit_loss, trained.model, mixer, layer),
        start=start(keys),
        given=trained.params,
        given_axes=0,
    )
    kinds = list(trained.model.kinds)
    kinds[layer] = "linear"
    params = {**trained.params, f"block_{layer}": {"attention": found.params}}
    return trained.remade(params, kinds=tuple(kinds))


def _fit_loss(model, mixer, layer, student, batch, frozen):
    tokens = model.apply({"params": frozen}, batch.inputs, method="hidden")
    code = None
    if layer == 0:
        code = jnp.asarray(sinusoidal_positions(batch.inputs.shape[1], model.position_dim))
    ours = mixer.apply({"params": student}, tokens[layer], code)
    return jnp.mean((ours - (tokens[layer + 1] - tokens[layer])) ** 2), {}


def not_fitted(trained: lab.Trained, replaced: lab.Trained, test, layer: int) -> float:
    """The share of a layer's update, in squares, that the linear one does not give."""
    gaps, updates = [], []
    for seed in range(trained.num_seeds):
        theirs, ours = (
            systems.hidden(m.model, m.seed(seed), test.inputs) for m in (trained, replaced)
        )
        gaps.append(jnp.mean((ours[layer + 1] - theirs[layer + 1]) ** 2))
        updates.append(jnp.mean((theirs[layer + 1] - theirs[layer]) ** 2))
    return float(sum(gaps) / sum(updates))


linearisation.table(
    "linearised",
    lab.rows("loss", over="softmax", name="ratio", also=("loss", "softmax", "not_fitted")),
)
linearisation.note(
    "Sequences of four times as many positions as inputs. A linear layer is fitted to the output "
    "of the softmax layer, on the tokens that it is given. loss and softmax: of the model with "
    "that layer replaced, and of the softmax model. not_fitted: the share of the layer's update, "
    "in squares, that the linear one does not give."
)
_LABELS = {"xlabel": "layer replaced", "ylabel": "loss over softmax"}
linearisation.figure(
    lab.lines("layer", "loss", over="softmax", color="inputs", **_LABELS),
    "Paper, Fig. 5. Loss of softmax models in which one layer is replaced by a linear one, over "
    "their own, by the number of inputs.",
    name="linearisation",
)
