"""Do models trained on dynamics learn regressions from pairs? (Fig. 8)

The paper: a model trained on dynamics alone learns y = W x from pairs x_1, y_1, x_2 ... in its
context; a tuned token behind each pair helps, and so does a tuned prefix.

Dimension key: S seeds, B sequences, P pairs, D inputs, F tokens of the prefix.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.mesa_optimization import systems
from experiments.mesa_optimization.paper import paper
from ico import lab, tasks

_PREFIX = 20
_JUDGED = "softmax, mesa"


draw = jax.jit(tasks.rotation_pairs, static_argnums=1)


def pair_losses(model, params, tuned, pairs: tasks.Pairs):
    """1/2 |error|^2 of every pair, [B, P], with tuned tokens: separator and prefix, or none."""
    tokens, places = tasks.pairs_in_a_row(pairs, **tuned)
    prediction = model.apply({"params": params}, tokens)[:, places]
    return 0.5 * jnp.sum((prediction - pairs.y) ** 2, axis=-1)


_pair_losses = jax.jit(pair_losses, static_argnums=0)


def tune(run: lab.Run, name: str, trained: lab.Trained, with_prefix: bool) -> lab.Trained:
    """Tokens tuned for a frozen model, by Adam at the paper's rate, raised for fewer steps."""
    config, D, S = run.config, run.config.dim, run.num_seeds
    key = run.key(f"tokens/{name}")
    start = {"separator": jax.random.normal(key, (S, D))}
    if with_prefix:
        start["prefix"] = jax.random.normal(jax.random.fold_in(key, 1), (S, _PREFIX, D))
    task = tasks.RotationPairs(config.long_batch, config.few_shot_pairs, D)
    return lab.train(
        run,
        f"tokens-{name}",
        trained.model,
        functools.partial(_draw_given, task=task),
        systems.recipe(config.tuning_steps, config.tuning_learning_rate, weight_decay=0.0),
        loss=functools.partial(_tuning_loss, trained.model),
        start=start,
        given=trained.params,
        given_axes=0,
    )


def _draw_given(key, frozen, task):
    return tasks.rotation_pairs(key, task)


def _tuning_loss(model, tuned, pairs, frozen):
    return jnp.mean(pair_losses(model, frozen, tuned, pairs)), {}


def least_squares(test: tasks.Pairs, other: tasks.Pairs) -> np.ndarray:
    """Losses [B, P] of least squares on all earlier pairs, with the best regulariser."""

    def side(pairs):
        # At pair p the query is x_p and the newest pair is p - 1: shifted by one.
        return pairs.x, jnp.pad(pairs.y[:, :-1], ((0, 0), (1, 0), (0, 0))), pairs.y

    return systems.least_squares(side(test), side(other))[0]


@paper.study("Do models trained on dynamics learn regressions from pairs?")
def few_shot(run):
    """Loss by pair without tuning, with a tuned token, with a prefix; and two tasks in a row."""
    config, P = run.config, run.config.few_shot_pairs
    half, length = P // 2, 3 * P + _PREFIX
    one, other, second = (
        draw(
            run.key(f"few_shot/{name}"),
            tasks.RotationPairs(config.few_shot_tests, pairs, config.dim),
        )
        for name, pairs in (("test", P), ("other", P), ("second", P - half))
    )
    joined = [jnp.concatenate([a[:, :half], b], axis=1) for a, b in zip(one, second, strict=True)]
    learners: dict[str, tuple[lab.Trained, lab.Trained | None]] = {}
    for model in config.few_shot_models:
        trained, name = systems.train_full(run, model, length=length), model.replace(", ", "-")
        learners[model] = trained, None
        learners[f"{model} + EOS"] = trained, tune(run, f"eos-{name}", trained, False)
        learners[f"{model} + EOS + prefix"] = trained, tune(run, f"prefix-{name}", trained, True)
    switched = tasks.Pairs(*joined)
    for which, test in (("one task", one), ("a new task half way", switched)):
        zero_BP = 0.5 * np.sum(np.asarray(test.y, np.float64) ** 2, axis=-1)
        found = {"least squares": least_squares(test, other)[None], "zero": zero_BP[None]}
        for name, (trained, tuned) in learners.items():
            tokens = [tuned.seed(s) if tuned else {} for s in range(trained.num_seeds)]
            losses = [
                _pair_losses(trained.model, trained.seed(s), tokens[s], test)
                for s in range(trained.num_seeds)
            ]
            found[name] = np.stack(losses)
        for name, loss_SBP in found.items():
            places = {"first": 0, "eleventh": min(10, P - 1), "last": P - 1}
            places |= {"half": half - 1, "after_half": half}
            values = {place: loss_SBP[..., p] for place, p in places.items()}
            yield lab.record(learner=name, tasks=which, **values)
            pair, mean_SP = np.arange(1, P + 1), loss_SBP.mean(1)
            yield lab.record("curve", learner=name, tasks=which, pair=pair, loss=mean_SP)
    run.note(f"Models were trained on sequences of length {length}; there are {P} pairs.")


few_shot.claim(
    "untuned",
    "Trained on dynamics, a model learns regressions from pairs at once: loss at the last pair "
    "over that at the first",
    "Fig. 8A",
    unit="ratio",
    band=(None, 0.6),
    kind="core",
    of=lab.ratio(("last", "first"), learner=_JUDGED, tasks="one task"),
)
few_shot.claim(
    "eos",
    "A tuned token behind each pair helps: share of the loss it takes away at pair 11",
    "Fig. 8A",
    unit="share",
    band=(0.15, None),
    of=lab.reduction("eleventh", learner=(_JUDGED, f"{_JUDGED} + EOS"), tasks="one task"),
)
few_shot.table("loss by pair", lab.rows("last", also=("first", "eleventh"), tasks="one task"))
few_shot.table(
    "two tasks in a row", lab.rows("last", also=("half", "after_half"), tasks="a new task half way")
)
few_shot.note(
    f"Claims are about the model of {_JUDGED}. The second half of two tasks starts at the middle "
    f"pair. A prefix has {_PREFIX} tokens. Least squares counts all earlier pairs, of both tasks.",
    "At the first pair nothing can be known, and zero is the best prediction. The model's is "
    "worse: the claim's ratio is to its own first loss, so compare with zero's, too.",
)
few_shot.figure(
    systems.loss_lines("pair", panel="tasks", log="y"),
    "Paper, Fig. 8. Loss by pair of regressions, of models trained on dynamics alone: untuned, "
    "with a tuned token behind each pair (EOS), with a tuned prefix, too. Right: after the middle "
    "pair the task is another.",
    name="few_shot",
)
