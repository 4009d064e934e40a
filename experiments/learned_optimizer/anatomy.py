"""Learning and its parts: meta-training, ablations, specialisation, the mix, the cost.

Dimension key: R runs, T steps, L layers, P base optimizers, E tests of a run, N test images.
"""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.learned_optimizer import contest, learners, problems, races
from experiments.learned_optimizer.races import OURS, contestant_of, specialised
from ico import metatrain, optim
from ico.report import StudyResult, difference, interval, ratio


def _ends(context, which, name: str, trained: learners.Trained, horizon: int = 0) -> np.ndarray:
    """Test losses by image at the end [R, N] of a learned optimizer taken as it is."""
    contestant = contestant_of(context, name, trained.entrant(), which)
    run = contestant.result(horizon or context.config.horizon)[1]
    return contest.ends(run.images, which.model)


def meta_train(context) -> StudyResult:
    """All meta-trainings that the contest needs: their meta-losses and what they cost."""
    rows, arrays = [], {}
    tasks = races.problems_of(context)
    without = [("l3rs", learners.WITHOUT_AVERAGE)] * context.config.without_average
    for name, kind in (("l3rs", ""), *without, *((rival, "") for rival in context.config.rivals)):
        label = f"{name}, {kind}" if kind else name
        groups = {task: {task: which} for task, which in tasks.items()}
        if name != "l3rs" and len(tasks) > 1:
            groups[learners.GENERAL] = tasks
        for on, group in groups.items():
            found = learners.attempts(context, name, group, kind)
            racing = found[-1]
            arrays[f"{on}/{label}"] = np.stack([racing.steps, racing.losses])
            if label == "l3rs":
                draws = [each.spec["draw"] for each in found]
                found += [each for each in _draws(context, on) if each.spec["draw"] not in draws]
            for each in found:
                late = max(len(each.losses) // 10, 1)
                draw = each.spec["draw"]
                rows.append({
                    "optimizer": label, "trained on": f"{on} ({draw + 1})" if draw else on,
                    "numbers": sum(leaf.size for leaf in jax.tree.leaves(each.theta)),
                    "meta-loss, first tenth": float(each.losses[:late].mean()),
                    "last tenth": each.meta_loss,
                    "races": "yes" if each is racing else "failed" if each.failed else "",
                    "million inner steps": each.inner_steps / 1e6, "seconds": each.seconds,
                })  # fmt: skip
    notes = ["The meta-loss is measured on data that is not trained on: what hand-designed "
             "optimizers are tuned by, too. Every meta-training gets as many inner steps.",
             "Meta-trainings of one optimizer differ by their random keys alone. The first that "
             "did not fail races: one fails that ends with a larger meta-loss than it began with. "
             "Further ones, of L3RS, show chance."]  # fmt: skip
    tables = {"meta-training": rows, "by chance": _by_chance(context)}
    return StudyResult([], tables, arrays, notes)


def _draws(context, task: str) -> list[learners.Trained]:
    """Meta-trainings of L3RS that differ by chance alone."""
    which = {task: races.problems_of(context)[task]}
    return [learners.meta_trained(context, "l3rs", which, draw=draw)
            for draw in range(context.config.meta_draws)]  # fmt: skip


def _by_chance(context) -> list[dict]:
    """Test losses of L3RS at the horizon by meta-training."""
    rows = []
    for task, which in races.problems_of(context).items():
        ends = []
        for draw, trained in enumerate(_draws(context, task)):
            name = f"{OURS}, {draw}" if draw else OURS
            ends.append(float(_ends(context, which, name, trained).mean()))
        row: dict = {"task": task}
        row |= {f"meta-training {i + 1}": end for i, end in enumerate(ends)}
        row["largest over smallest"] = max(ends) / min(ends)
        rows.append(row)
    return rows


def ablations(context) -> StudyResult:
    """L3RS without its parts, each meta-trained anew, at the horizon and at four times it."""
    config = context.config
    task = config.ablation_task
    which = races.problems_of(context)[task]
    rows, horizons = [], (config.horizon, 4 * config.horizon)
    whole = specialised(context, "l3rs", task)
    bases = [_ends(context, which, OURS, whole, horizon) for horizon in horizons]
    for ablation in ("", *(config.ablations or learners.ABLATIONS)):
        trained = specialised(context, "l3rs", task, ablation) if ablation else whole
        row: dict = {"L3RS with": ablation or "all its parts",
                     "meta-loss": trained.meta_loss}  # fmt: skip
        for horizon, base in zip(horizons, bases, strict=True):
            name = f"{OURS}, {ablation}" if ablation else OURS
            ends = _ends(context, which, name, trained, horizon)
            row[f"loss after {horizon} steps"] = float(ends.mean())
            over, (low, high) = interval(ends, base, statistic=ratio)
            if ablation:
                row |= {f"over the whole, {horizon}": over, f"low, {horizon}": low,
                        f"high, {horizon}": high}  # fmt: skip
        rows.append(row)
    notes = [f"On {task}; each trained anew, once, from the same seed, on the same tasks and "
             "batches: intervals are over test runs and images alone."]  # fmt: skip
    return StudyResult([], {"ablations": rows}, {}, notes)


def specialisation(context) -> StudyResult:
    """Optimizers trained on each task, used on each; and one step and mix for all layers."""
    tasks = races.problems_of(context)
    rows, pairs, arrays = [], [], {}
    matrix = np.zeros((len(tasks), len(tasks)))
    for i, (on, which) in enumerate(tasks.items()):
        own = _ends(context, which, OURS, specialised(context, "l3rs", on))
        row: dict = {"used on": on}
        for j, task in enumerate(tasks):
            if len(layer_names(tasks[task])) != len(layer_names(which)):
                row[f"trained on {task}"], matrix[i, j] = None, np.nan
                continue
            trained = specialised(context, "l3rs", task)
            name = OURS if task == on else f"{OURS}, of {task}"
            ends = own if task == on else _ends(context, which, name, trained)
            row[f"trained on {task}"] = matrix[i, j] = float(ends.mean())
            if task != on:
                pairs.append((ends, own))
        rows.append(row)
    arrays["matrix"] = matrix
    layered, by_layer = [], []
    for task, which in tasks.items():
        own = _ends(context, which, OURS, specialised(context, "l3rs", task))
        one = specialised(context, "l3rs", task, "one layer for all")
        ends = _ends(context, which, f"{OURS}, one layer for all", one)
        layered.append((ends, own))
        gap, (low, high) = interval(ends, own, statistic=difference)
        by_layer.append({"task": task, "by layer": float(own.mean()),
                         "one for all layers": float(ends.mean()), "difference": gap,
                         "95% low": low, "95% high": high})  # fmt: skip
    claims = [races.judged("specialisation.per_layer", layered, difference),
              races.judged("specialisation.diagonal", pairs, difference)]  # fmt: skip
    notes = [
        "An optimizer fits networks of as many layers (all of the cpu preset have three). Test "
        "losses at the horizon, by row the same starts and batches. One meta-training each."
    ]
    tables = {"transfer": rows, "by layer": by_layer}
    return StudyResult(claims, tables, arrays, notes)


def what_it_learned(context) -> StudyResult:
    """The mix and the step of every layer along a fine-tuning, means over runs."""
    config = context.config
    arrays, rows = {}, []
    for task, which in races.problems_of(context).items():
        trained = specialised(context, "l3rs", task)
        optimizer = trained.learner.build(trained.theta, config.horizon)
        family = problems.family(which)

        def watched(key, optimizer=optimizer, family=family):
            keys = jax.random.split(key, 3)
            fine_tuning = family.task(family.sample(keys[0]))

            def step(inner, t):
                inner, _ = metatrain.inner_step(
                    optimizer, fine_tuning, inner, jax.random.fold_in(keys[2], t)
                )
                last = inner.opt_state.inner  # inside of the state of the average
                return inner, (last.learning_rate, last.mix)

            inner = metatrain.begin(optimizer, fine_tuning, keys[1])
            return jax.lax.scan(step, inner, jnp.arange(config.horizon))[1]

        keys = jax.random.split(context.key(f"watch/{task}"), 16)
        step_RTL, mix_RTLP = map(np.asarray, jax.jit(jax.vmap(watched))(keys))
        for place, layer in enumerate(layer_names(which)):
            arrays[f"{task}/{layer}/step"] = step_RTL[..., place].mean(0)
            arrays[f"{task}/{layer}/mix"] = mix_RTLP[:, :, place, -1].mean(0)
            rows.append({
                "task": task, "layer": layer,
                "step, first tenth": float(_part(step_RTL, place, 0)),
                "in the middle": float(_part(step_RTL, place, 0.45)),
                "share of RMSprop, first tenth": float(_part(mix_RTLP[..., -1], place, 0)),
                "last tenth": float(_part(mix_RTLP[..., -1], place, 0.9)),
            })  # fmt: skip
    notes = ["The step is the root mean square of an update whose weight is all on one direction, "
             "as large as that ever was; the share is that of RMSprop's direction, the rest is "
             "the gradient's."]  # fmt: skip
    return StudyResult([], {"steps and mixes": rows}, arrays, notes)


def layer_names(which: problems.Problem) -> list[str]:
    """Of its network, in the order of L3RS."""
    shapes = jax.eval_shape(problems.task_of(which, 0).init, jax.random.key(0))
    paths = [optim.by_module(path) for path, _ in jax.tree_util.tree_leaves_with_path(shapes)]
    return list(dict.fromkeys(paths))


def _part(values_RTL, place: int, start: float) -> np.ndarray:
    """The mean over a tenth of the steps."""
    T = values_RTL.shape[1]
    first = int(start * T)
    return values_RTL[:, first : first + max(T // 10, 1), place].mean()


def cost(context) -> StudyResult:
    """Seconds a step of each optimizer, and steps and tuning against meta-training."""
    config = context.config
    rows, paid = [], []
    arrays: dict[str, np.ndarray] = {}
    for task, which in races.problems_of(context).items():
        entrants = races.hand_designed(context) | races.learned(context, task)
        field = races.Field(context, which, entrants, config.horizon)
        runs: dict = {}
        for name, entrant in entrants.items():
            program = entrant.program or name
            runs[program] = runs.get(program) or _one_run(context, which, entrant)
        seconds = {name: _seconds_a_step(context, runs[entrant.program or name], entrant.theta)
                   for name, entrant in entrants.items()}  # fmt: skip
        curves = field.curves()
        target = curves[field.best][1][-1]  # the very number, or rounding would hide it from itself
        for name, (steps, losses) in curves.items():
            place = f"{task}/{config.horizon}/{name}"
            arrays[place] = np.stack([1e3 * seconds[name] * steps, losses])
        rows_of: dict[str, dict[str, Any]] = {}
        for name, each in seconds.items():
            first = _steps_to(curves[name][1], target, config.horizon)
            rows_of[name] = {"task": task, "optimizer": name, "milliseconds a step": 1e3 * each,
                             f"over {field.best}": each / seconds[field.best],
                             "steps to its loss": first,
                             "seconds to it": None if first is None else first * each}  # fmt: skip
        rows += rows_of.values()
        own, best = (rows_of[name]["seconds to it"] for name in (OURS, field.best))
        saved = None if own is None or best is None else best - own
        tuning = config.horizon * (len(contest.SCHEDULES) * config.num_rates * config.first_runs
                                   + config.second_candidates * config.second_runs)  # fmt: skip
        trained = specialised(context, "l3rs", task)
        paid.append({"task": task, "meta-training, million inner steps": trained.inner_steps / 1e6,
                     "its seconds": trained.seconds,
                     "tuning one optimizer, million steps": tuning / 1e6,
                     "seconds saved a fine-tuning": saved,
                     "fine-tunings until it has paid":
                     trained.seconds / saved if saved is not None and saved > 0 else None,
                     })  # fmt: skip
    notes = [
        "One run alone, compiled, the median of five; steps to the loss at which the best "
        "hand-designed optimizer ends, by the tests along the runs (none: never).",
        "Saved: on the way to that loss, one run after another; never paid where nothing is saved.",
    ]
    return StudyResult([], {"steps": rows, "meta-training against tuning": paid}, arrays, notes)


def _steps_to(losses_E, target: float, horizon: int) -> int | None:
    reached = np.flatnonzero(losses_E <= target)
    return None if not len(reached) else int(horizon * (reached[0] + 1) // len(losses_E))


def _one_run(context, which, entrant: contest.Entrant) -> Callable:
    """(key, theta) -> losses, compiled."""
    horizon = context.config.horizon
    task = problems.task_of(which, 0)

    @jax.jit
    def run(key, theta):
        rate = contest.schedule(1, max(entrant.rate, 1e-3), horizon)
        optimizer = optax.with_extra_args_support(entrant.make(rate, horizon, theta))
        return metatrain.run(optimizer, task, key, horizon)[1]

    return run


def _seconds_a_step(context, run: Callable, theta) -> float:
    """The median of five runs, after a first."""
    found = []
    for i in range(6):
        started = time.perf_counter()
        jax.block_until_ready(run(context.key(f"cost/{i}"), theta))
        found.append((time.perf_counter() - started) / context.config.horizon)
    return float(np.median(found[1:]))
