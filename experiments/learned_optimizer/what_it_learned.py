"""How does L3RS mix directions and set learning rates, layer by layer?

Dimension key: R runs, T steps, L layers, P base optimizers.
"""

import functools

import jax
import numpy as np

from experiments.learned_optimizer.learners import specialised
from experiments.learned_optimizer.paper import paper
from experiments.learned_optimizer.problems import Problem, family, layer_names, problems
from ico import lab, metatrain

_RUNS = 16


@paper.study("How does it mix and step, layer by layer?")
def what_it_learned(run):
    """A record a task and layer, means over fine-tunings: learning_rate and rmsprop, [T]."""
    horizon = run.config.horizon
    for task, of in problems(run).items():
        optimizer = specialised(run, "l3rs", task).learned.optimizer(horizon)
        keys = jax.random.split(run.key(f"watch/{task}"), _RUNS)
        watch = functools.partial(_watch, optimizer, of, horizon)
        rate_RTL, mix_RTLP = map(np.asarray, jax.jit(jax.vmap(watch))(keys))
        for place, layer in enumerate(layer_names(of)):
            yield lab.record(
                task=task,
                layer=layer,
                step=np.arange(1, horizon + 1),
                learning_rate=rate_RTL[..., place].mean(0),
                rmsprop=mix_RTLP[:, :, place, -1].mean(0),
            )


def _watch(optimizer, of: Problem, horizon: int, key):
    """Learning rates [T, L] and mixes [T, L, P] along one fine-tuning."""
    sample, *keys = jax.random.split(key, 3)
    tasks = family(of)
    names = "learning_rate", "mix"
    return metatrain.watch(optimizer, tasks.task(tasks.sample(sample)), tuple(keys), horizon, names)


@what_it_learned.table("learning rates and mixes")
def _(records):
    def tenth(values_T, start: float) -> float:
        first = int(start * len(values_T))
        return float(values_T[first : first + max(len(values_T) // 10, 1)].mean())

    return [
        dict(one.axes)
        | {
            "learning rate, first tenth": tenth(one["learning_rate"], 0),
            "in the middle": tenth(one["learning_rate"], 0.45),
            "share of RMSprop, first tenth": tenth(one["rmsprop"], 0),
            "last tenth": tenth(one["rmsprop"], 0.9),
        }
        for one in records
    ]


for _value, _label, _log in (
    ("learning_rate", "Learning rate", "y"),
    ("rmsprop", "Share of RMSprop", ""),
):
    what_it_learned.figure(
        lab.lines("step", _value, color="layer", panel="task", ylabel=_label, log=_log),
        f"{_label} in every layer along fine-tunings, means over {_RUNS} of them.",
        name=f"what_it_learned_{_value}",
    )
what_it_learned.note(
    "The learning rate is the root mean square of an update whose weight is all on one direction, "
    "as large as that ever was; the share is that of RMSprop's direction, the rest is the "
    "gradient's."
)
