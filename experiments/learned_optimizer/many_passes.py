"""What the images of one fine-tuning allow: many passes over them.

No entrant of the contest: it takes many times the steps. A yardstick for how far an optimizer that
sees every image once or twice may come.

Dimension key: R runs, E tests of a run, C candidates (an optimizer, its rate and its weight decay),
N test images.
"""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learned_optimizer import contest, problems
from ico import metatrain, train

_TESTS = 20
_OPTIMIZERS = {
    "AdamW, cosine": lambda rate, decay, steps: optax.adamw(
        contest.schedule(1, rate, steps), weight_decay=decay
    ),
    "schedule-free AdamW": lambda rate, decay, _: optax.contrib.schedule_free_adamw(
        rate, weight_decay=decay
    ),
}
_RATES = 1e-3, 3e-3, 1e-2, 3e-2
_DECAYS = 0.01, 1.0  # with so many passes it matters


class ManyPasses(NamedTuple):
    """Test losses by image [R, N] after so many `steps`, the runs those of the test."""

    images: np.ndarray
    steps: int
    optimizer: str
    rate: float
    decay: float


def many_passes(context, which: problems.Problem) -> ManyPasses:
    """The images that each test run of the contest draws, used again and again, from its start.

    Optimizer, rate, weight decay and the step to stop at are chosen on runs of their own by the
    loss on the data that the contest is tuned by.
    """
    config = context.config
    every = max(config.passes * config.horizon // _TESTS, 1)
    steps = every * _TESTS

    def one(name, until, tuned, key, network, split):
        keys = jax.random.split(key)  # as a race does: the same start, the same images
        seen = jax.vmap(
            lambda t: problems.draw(jax.random.fold_in(keys[1], t), which.train, which.batch_size)
        )(jnp.arange(config.horizon))
        pool = problems.Split(*[a.reshape(-1, *a.shape[2:]) for a in seen])
        task = problems.task_of(which._replace(train=pool, test=split), network)
        optimizer = _OPTIMIZERS[name](tuned[0], tuned[1], steps)
        params, _, losses_E = metatrain.run(optimizer, task, key, until, test_every=every)
        return losses_E, problems.cross_entropies(which.model, params, split)

    @functools.partial(jax.jit, static_argnums=(0, 1))
    def several(name, until, tuned, keys_R, networks_R, split):
        return jax.lax.map(
            lambda run: one(name, until, tuned, run[0], run[1], split), (keys_R, networks_R),
            batch_size=config.side_by_side,
        )  # fmt: skip

    def race(candidate, until, runs, label, split):
        name, *tuned = candidate
        keys_R = jax.random.split(context.key(f"{which.name}/{label}"), runs)
        found = several(name, until, tuned, keys_R, jnp.arange(runs) % which.known, split)
        return [np.nan_to_num(np.asarray(a), nan=np.inf) for a in found]

    candidates = list(itertools.product(_OPTIMIZERS, _RATES, _DECAYS))
    settings = {name: getattr(config, name) for name in config.contest_fields()}
    spec = {"problem": which.name, "steps": steps, "seed": context.seed, "config": settings,
            "candidates": candidates}  # fmt: skip
    label = which.name.replace(", ", "-").replace(" ", "-")
    directory = train.artifact_directory(context.directory / "checkpoints", f"many-{label}", spec)
    found: Any = train.load_artifact(directory)
    if found is None:
        losses_CE = np.stack([
            race(candidate, steps, which.known, "many passes", which.valid)[0].mean(0)
            for candidate in candidates
        ])  # fmt: skip
        best, stop = np.unravel_index(losses_CE.argmin(), losses_CE.shape)
        until = int(stop + 1) * every
        images = race(candidates[best], until, config.test_runs, "test", which.test)[1]
        found = {"images": images, "steps": np.asarray(until), "best": np.asarray(best)}
        train.save_artifact(directory, found)
        found = train.load_artifact(directory)
    return ManyPasses(np.asarray(found["images"]), int(found["steps"]),
                      *candidates[int(found["best"])])  # fmt: skip
