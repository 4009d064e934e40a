"""Studies of one attention layer.

Dimension key: S seeds, T tasks, L steps, E token width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gd_in_context import evaluation as ev
from experiments.gd_in_context.training import recipe_for, sampler_of, train_model
from ico import algorithms, models, tasks
from ico.algorithms import constructions
from ico.models import LinearTransformer, interpolate, learner, normalise, products
from ico.report import Measurement, StudyResult, difference, measured, ratio, unjudged
from ico.types import Prompt

CONSTRUCTION_TASKS = 32


def task_of(context, dim: int = 10, batch_size: int | None = None) -> tasks.LinearRegression:
    """The paper's regression task with N = d = dim."""
    return tasks.LinearRegression(
        batch_size=batch_size or context.config.batch_size, num_inputs=dim, num_context=dim
    )


def searched_rate(context, name: str, task, num_steps: int = 1):
    """Gradient descent's rate, line-searched on the authors' grid and other tasks: {"rate"}."""
    tuning = dataclasses.replace(task, batch_size=context.config.search_tasks)
    gd = functools.partial(algorithms.gd, num_steps=num_steps)
    params, _ = algorithms.grid_search(
        gd, {"rate": jnp.asarray(ev.RATES)}, sampler_of(tuning), context.key(f"search/{name}")
    )
    return params


def train_one_layer(context, dim: int = 10):
    """The trained layer that most studies start from, its task, and GD's searched rate."""
    task, rate = task_of(context, dim), searched_rate(context, f"gd-{dim}", task_of(context, dim))
    name = f"one_layer-{dim}"
    evaluate = _curves(context, task, rate) if dim == 10 else None
    model = LinearTransformer(num_inputs=dim)
    recipe = recipe_for(context.config, context.config.one_layer_steps)
    return train_model(context, name, model, task, recipe, evaluate=evaluate), task, rate


def _curves(context, task, rate):
    episode = ev.draw(context, "one_layer/curve", task, context.config.curve_tasks)
    model = LinearTransformer(num_inputs=task.num_inputs)
    apply = learner(model)
    built = constructions.gd(rate["rate"], num_context=task.num_context, num_inputs=task.num_inputs)
    gd_prediction = jax.jit(algorithms.gd)(rate, episode.prompt)
    gd_slope = jax.jit(ev.slope, static_argnums=0)(algorithms.gd, rate, episode.prompt)

    def evaluate(params):
        prediction = apply(params, episode.prompt)
        slope = ev.slope(apply, params, episode.prompt)
        like = ev.likeness_of(slope, gd_slope, (prediction - gd_prediction)[:, 0, 0])
        halfway = apply(interpolate(params, built), episode.prompt)
        return {
            "loss": tasks.half_squared_error(prediction, episode.y_query).mean(),
            "interpolated": tasks.half_squared_error(halfway, episode.y_query).mean(),
            **{name: value.mean() for name, value in like.items()},
        }

    return evaluate


def one_layer(context) -> StudyResult:
    """The construction is exact; the trained layer matches it, in function and in weights."""
    trained, task, rate = train_one_layer(context)
    episode = ev.draw(context, "one_layer/test", task)
    model_loss = ev.seed_losses(trained.apply, trained.params, episode)
    gd_loss = ev.losses(algorithms.gd, rate, episode)
    built = constructions.gd(rate["rate"], num_context=10, num_inputs=10)
    halfway = jax.jit(jax.vmap(lambda params: interpolate(params, built)))(trained.params)
    halfway_loss = ev.seed_losses(trained.apply, halfway, episode)
    like = ev.likeness(trained.apply, trained.params, algorithms.gd, rate, episode)
    zero_loss = ev.losses(ev.zero, {}, episode)
    closed_loss = _closed_form_losses(context, task, rate)
    weights, errors = _weights(trained.params, rate, task)
    exact = {dtype: _construction_error(context, dtype) for dtype in ("float32", "float64")}

    claims = [
        Measurement(f"one_layer.construction_{dtype}", error, None, 0, CONSTRUCTION_TASKS)
        for dtype, error in exact.items()
    ]
    claims += [
        measured("one_layer.closed_form", closed_loss, note=f"rate {float(rate['rate']):.3f}"),
        measured("one_layer.loss_ratio", model_loss, gd_loss, statistic=ratio),
        measured("one_layer.cosine", like["cosine"]),
        measured("one_layer.interpolated_ratio", halfway_loss, gd_loss, statistic=ratio),
        measured("one_layer.weights_kq", errors["kq"][:, None]),
        measured("one_layer.weights_pv", errors["pv"][:, None]),
    ]
    table = [
        ev.row("gradient descent, 1 step", gd_loss),
        ev.row("trained layer", model_loss, gd_loss),
        ev.row("halfway between", halfway_loss, gd_loss),
        ev.row("zero predictor", zero_loss, gd_loss),
    ]
    history = trained.history
    arrays = {
        f"curve/{name}": history[f"eval/{name}"]
        for name in ("step", "loss", "interpolated", "cosine", "model_difference",
                     "prediction_difference")
    }  # fmt: skip
    arrays |= {"gd_loss": np.asarray(gd_loss.mean()), "likeness/cosine": like["cosine"], **weights}
    curve_episode = ev.draw(context, "one_layer/curve", task, context.config.curve_tasks)
    arrays["curve/gd_loss"] = np.asarray(ev.losses(algorithms.gd, rate, curve_episode).mean())
    return StudyResult(claims, {"losses": table}, arrays)


def _closed_form_losses(context, task, rate) -> np.ndarray:
    """Losses of one gradient step on many tasks, in pieces that fit in memory."""
    count, piece = context.config.closed_form_tasks, 100_000
    keys = jax.random.split(context.key("one_layer/closed_form"), -(-count // piece))
    sample = sampler_of(dataclasses.replace(task, batch_size=min(count, piece)))

    @jax.jit
    def losses(key):
        episode = sample(key)
        with jax.default_matmul_precision("highest"):
            prediction = algorithms.gd(rate, episode.prompt)
        return tasks.half_squared_error(prediction, episode.y_query)

    # Means of eight tasks: the same mean, the same interval, an eighth of the bootstrap's work.
    values = np.concatenate([np.asarray(losses(key)) for key in keys])
    return values[: len(values) // 8 * 8].reshape(-1, 8).mean(1)


def _weights(params, rate, task):
    """W_KQ / beta and W_PV beta of every seed [S, E, E], and their distance to construction."""

    def normalised(params):
        return products(normalise(params)["block_0"])

    w_kq, w_pv = (np.asarray(w)[:, 0] for w in jax.jit(jax.vmap(normalised))(params))
    built = constructions.gd(rate["rate"], num_context=task.num_context, num_inputs=task.num_inputs)
    target_kq, target_pv = (np.asarray(w)[0] for w in products(built["block_0"]))

    def error(w, target):
        return np.linalg.norm(w - target, axis=(1, 2)) / np.linalg.norm(target)

    errors = {"kq": error(w_kq, target_kq), "pv": error(w_pv, target_pv)}
    arrays = {"weights/kq": w_kq, "weights/pv": w_pv, "weights/built_kq": target_kq,
              "weights/built_pv": target_pv}  # fmt: skip
    return arrays, errors


def _construction_error(context, dtype: str) -> float:
    """The largest difference of predictions, over tasks and 100 steps, to explicit GD."""
    with jax.enable_x64(True):
        x_key, w_key, query_key, start_key = jax.random.split(context.key("construction"), 4)
        x = jax.random.uniform(x_key, (CONSTRUCTION_TASKS, 45, 12), jnp.float64, -0.5, 0.5)
        w = jax.random.normal(w_key, (CONSTRUCTION_TASKS, 8, 12), jnp.float64)
        query = jax.random.uniform(query_key, (CONSTRUCTION_TASKS, 1, 12), jnp.float64, -0.5, 0.5)
        w0 = jax.random.normal(start_key, (8, 12), jnp.float64)
        prompt = Prompt(x, jnp.einsum("bnd,bkd->bnk", x, w), query)
        prompt, w0 = jax.tree.map(lambda a: a.astype(dtype), (prompt, w0))
        rate = jnp.asarray(2.0, dtype)
        sizes = {"num_inputs": 12, "num_outputs": 8, "num_layers": 100, "tied": True}
        model = LinearTransformer(**sizes, initial_weights=True)
        built = constructions.gd(rate, num_context=45, w0=w0, **sizes)

        @jax.jit
        def largest_difference(built, prompt):
            with jax.default_matmul_precision("highest"):
                by_weights = learner(model, all_layers=True)(built, prompt)
                explicit = algorithms.gd(
                    {"rate": rate, "w0": w0}, prompt, num_steps=100, all_steps=True
                )
            return jnp.abs(by_weights - explicit).max()

        return float(largest_difference(built, prompt))


def dimensions(context) -> StudyResult:
    """One layer for several N = d."""
    table, pairs, arrays = [], [], {"dims": np.array((10, *context.config.sweep_dims))}
    arrays["dims"] = np.sort(arrays["dims"])
    for dim in arrays["dims"].tolist():
        trained, task, rate = train_one_layer(context, dim)
        episode = ev.draw(context, f"dimensions/{dim}", task)
        gd_loss = ev.losses(algorithms.gd, rate, episode)
        model_loss = ev.seed_losses(trained.apply, trained.params, episode)
        row = {"N = d": dim, "rate": float(rate["rate"])}
        row |= ev.row("trained layer", model_loss, gd_loss)
        table.append(row | {"gradient descent": float(gd_loss.mean())})
        pairs += [model_loss, gd_loss]
        arrays |= {f"model/{dim}": model_loss, f"gd/{dim}": gd_loss}
    claim = ev.all_measured("dimensions.loss_ratio", *pairs, statistic=ratio)
    return StudyResult([claim], {"losses": table}, arrays)


def roll_out(context) -> StudyResult:
    """The trained layer repeated with damping, updating labels only, as gradient descent does."""
    trained, task, rate = train_one_layer(context)
    steps, damping = context.config.roll_out_steps, 0.75
    model = LinearTransformer(num_layers=steps, tied=True, damping=damping, update="targets")
    episode = ev.draw(context, "roll_out/test", task)
    apply = learner(model, all_layers=True)
    model_loss = ev.seed_losses(apply, trained.params, episode)
    gd = functools.partial(algorithms.gd, num_steps=steps, all_steps=True)
    gd_loss = ev.losses(gd, {"rate": damping * rate["rate"]}, episode)
    pairs = [a for i in range(min(20, steps)) for a in (model_loss[:, i], gd_loss[i])]
    if steps >= 20:
        claim = ev.all_measured("roll_out.loss_ratio", *pairs, statistic=ratio)
    else:
        claim = unjudged("roll_out.loss_ratio", f"{steps} steps of 20")
    table = [
        {"step": i + 1, **ev.row("trained layer", model_loss[:, i], gd_loss[i]),
         "gradient descent": float(gd_loss[i].mean())}
        for i in sorted({0, 1, 4, 9, 19, steps - 1} & set(range(steps)))
    ]  # fmt: skip
    # Curves need means only; the losses of every task and step would be large.
    arrays = {"model": model_loss.mean(-1), "gd": gd_loss.mean(-1)}
    return StudyResult([claim], {"losses": table}, arrays)


def out_of_distribution(context) -> StudyResult:
    """The trained layer and gradient descent, at its training-time rate, on other tasks."""
    trained, task, rate = train_one_layer(context)
    inside = {"input_range": (0.5, 1.5), "weight_scale": (0.5, 3.0)}
    grid = {"input_range": (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
            "weight_scale": (0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 5.0)}  # fmt: skip
    other = {name: (0.5, 1.0, 2.0, 3.0, 4.0, 5.0) for name in ("normal", "exponential", "laplace")}
    claims, table, arrays = [], [], {}

    def both(name, value, changes: dict[str, Any]):
        changed = dataclasses.replace(task, **changes)
        episode = ev.draw(context, f"out_of_distribution/{name}/{value}", changed)
        model_loss = ev.seed_losses(trained.apply, trained.params, episode)
        gd_loss = ev.losses(algorithms.gd, rate, episode)
        table.append({"change": name, "value": value, **ev.row("trained layer", model_loss,
                     gd_loss), "gradient descent": float(gd_loss.mean())})  # fmt: skip
        return model_loss, gd_loss

    for name, values in grid.items():
        results = [both(name, v, {name: v}) for v in values]
        low, high = inside[name]
        pairs = [a for v, pair in zip(values, results, strict=True) if low <= v <= high
                 for a in pair]  # fmt: skip
        claims.append(ev.all_measured(f"out_of_distribution.{name}", *pairs, statistic=ratio))
        arrays |= _curve_arrays(name, values, results)
    for name, values in other.items():
        results = [
            both(f"{name} inputs, norm", v, {"inputs": name, "input_range": v}) for v in values
        ]
        arrays |= _curve_arrays(name, values, results)
    return StudyResult(claims, {"losses": table}, arrays)


def _curve_arrays(name, values, results):
    """x [X], mean losses of the model [S, X] and of gradient descent [X]."""
    return {
        f"{name}/x": np.array(values),
        f"{name}/model": np.stack([model.mean(-1) for model, _ in results], axis=-1),
        f"{name}/gd": np.array([gd.mean() for _, gd in results]),
    }


def softmax_heads(context) -> StudyResult:
    """Softmax attention with one head and with two, beside the linear layer."""
    linear, task, rate = train_one_layer(context)
    episode = ev.draw(context, "softmax_heads/test", task)
    recipe = recipe_for(context.config, context.config.one_layer_steps, clip=10.0)
    loss = {"linear, 1 head": ev.seed_losses(linear.apply, linear.params, episode)}
    like = {"linear, 1 head": ev.likeness(
        linear.apply, linear.params, algorithms.gd, rate, episode)["cosine"]}  # fmt: skip
    curves = {"linear, 1 head": linear.history}
    for heads in (1, 2):
        # Softmax needs logits of order one: the authors' tiny start suits linear attention only.
        model = LinearTransformer(num_heads=heads, attention="softmax", init_scale=0.1)
        trained = train_model(context, f"softmax-{heads}", model, task, recipe)
        name = f"softmax, {heads} head" + "s" * (heads > 1)
        loss[name] = ev.seed_losses(trained.apply, trained.params, episode)
        like[name] = ev.likeness(trained.apply, trained.params, algorithms.gd, rate,
                                 episode)["cosine"]  # fmt: skip
        curves[name] = trained.history
    gd_loss = ev.losses(algorithms.gd, rate, episode)
    one, two, flat = (loss[n] for n in ("softmax, 1 head", "softmax, 2 heads", "linear, 1 head"))

    claims = [
        measured("softmax_heads.one_worse_than_two", one, two, statistic=difference),
        measured("softmax_heads.two_worse_than_linear", two, flat, statistic=difference),
    ]
    table = [
        {**ev.row(name, value, gd_loss), "cosine with GD": float(like[name].mean())}
        for name, value in loss.items()
    ]
    table.append(ev.row("gradient descent, 1 step", gd_loss))
    arrays = {f"curve/{n}/step": h["step"] for n, h in curves.items()}
    arrays |= {f"curve/{n}/loss": h["loss"] for n, h in curves.items()}
    arrays["gd_loss"] = np.asarray(gd_loss.mean())
    return StudyResult(claims, {"losses": table}, arrays)


def layer_norm(context) -> StudyResult:
    """One layer with LayerNorm on the tokens before attention. No claim: the paper gives none."""
    task = task_of(context)
    rate = searched_rate(context, "gd-10", task)
    # Tied, so that the norm stands before the only layer too (untied, the first has none).
    model = LinearTransformer(layer_norm=True, tied=True, init_scale=0.02)
    recipe = recipe_for(context.config, context.config.one_layer_steps, clip=10.0)
    trained = train_model(context, "layer_norm", model, task, recipe)
    episode = ev.draw(context, "layer_norm/test", task)
    gd_loss = ev.losses(algorithms.gd, rate, episode)
    model_loss = ev.seed_losses(trained.apply, trained.params, episode)
    like = ev.likeness(trained.apply, trained.params, algorithms.gd, rate, episode)
    table = [
        {**ev.row("layer with LayerNorm", model_loss, gd_loss),
         "cosine with GD": float(like["cosine"].mean())},
        ev.row("gradient descent, 1 step", gd_loss),
    ]  # fmt: skip
    arrays = {
        "curve/step": trained.history["step"],
        "curve/loss": trained.history["loss"],
        "gd_loss": np.asarray(gd_loss.mean()),
        "cosine": like["cosine"].mean(-1),
    }
    return StudyResult([], {"losses": table}, arrays)


def distractors(context) -> StudyResult:
    """Random labels in the context; the layer and the rate are those of clean contexts."""
    trained, task, rate = train_one_layer(context)
    counts, pairs, table, results = (0, 2, 4, 6, 8), [], [], []
    for count in counts:
        changed = dataclasses.replace(task, num_distractors=count)
        episode = ev.draw(context, f"distractors/{count}", changed)
        model_loss = ev.seed_losses(trained.apply, trained.params, episode)
        gd_loss = ev.losses(algorithms.gd, rate, episode)
        table.append({"random labels": count, **ev.row("trained layer", model_loss, gd_loss),
                      "gradient descent": float(gd_loss.mean())})  # fmt: skip
        pairs += [model_loss, gd_loss]
        results.append((model_loss, gd_loss))
    claim = ev.all_measured("distractors.loss_ratio", *pairs, statistic=ratio)
    return StudyResult([claim], {"losses": table}, _curve_arrays("count", counts, results))


def fixed_task_set(context) -> StudyResult:
    """One layer trained on a finite set of tasks, tested on fresh ones."""
    task, sizes = task_of(context), sorted(context.config.task_set_sizes)
    rate = searched_rate(context, "gd-10", task)
    test = ev.draw(context, "fixed_task_set/test", task)
    gd_loss = ev.losses(algorithms.gd, rate, test)
    curve_test = ev.draw(context, "fixed_task_set/curve", task, context.config.curve_tasks)
    table, losses = [], []
    arrays = {
        "sizes": np.array(sizes),
        "gd_loss": np.asarray(gd_loss.mean()),
        "curve/gd_loss": np.asarray(ev.losses(algorithms.gd, rate, curve_test).mean()),
    }
    # One function object for all sizes: the loop compiles its evaluation once.
    apply = models.learner(LinearTransformer())

    def evaluate(params):
        prediction = apply(params, curve_test.prompt)
        return {"loss": tasks.half_squared_error(prediction, curve_test.y_query).mean()}

    for size in sizes:
        episodes = ev.draw(context, f"fixed_task_set/{size}", task, size)
        trained = train_model(
            context, f"fixed_task_set-{size}", LinearTransformer(), task,
            recipe_for(context.config, context.config.task_set_steps),
            sampler=tasks.fixed_task_set(episodes, min(size, task.batch_size)),
            evaluate=evaluate, spec={"tasks": size},
        )  # fmt: skip
        loss = ev.seed_losses(trained.apply, trained.params, test)
        train_loss = ev.seed_losses(trained.apply, trained.params, episodes)
        losses.append(loss)
        table.append({"tasks": size, **ev.row("fresh tasks", loss, gd_loss),
                      "loss on its own tasks": float(train_loss.mean())})  # fmt: skip
        arrays |= {f"curve/{size}/step": trained.history["eval/step"],
                   f"curve/{size}/test": trained.history["eval/loss"],
                   f"curve/{size}/train": trained.history["loss"]}  # fmt: skip
    if len(sizes) > 1:
        claim = ev.all_measured(
            "fixed_task_set.falls_with_tasks", *ev.chain(losses), statistic=difference
        )
    else:
        claim = unjudged("fixed_task_set.falls_with_tasks", "one size alone")
    notes = [
        "Of each size one set is drawn, which all seeds share: the interval is over seeds and test "
        f"tasks. Sets of up to {task.batch_size} tasks are one batch, larger ones are drawn from."
    ]
    return StudyResult([claim], {"losses": table}, arrays, notes)
