"""Studies of what stands below the gradient step: learned features, and the copy of labels.

Dimension key: S seeds, T tasks, N context pairs, H heads.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.gd_in_context import evaluation as ev
from experiments.gd_in_context.single_layer import searched_rate, task_of
from experiments.gd_in_context.training import (
    recipe_for,
    sampler_of,
    train_learner,
    train_model,
)
from ico import algorithms, tasks
from ico.algorithms import constructions
from ico.models import AlternatingTransformer, LinearTransformer, learner
from ico.report import StudyResult, difference, measured, ratio, unjudged

EMBED, HIDDEN = 40, 160


def sine_mlp(context) -> StudyResult:
    """MLP and trained attention beside MLP and one gradient step of learned rate."""
    task = tasks.Sine(batch_size=context.config.deep_batch_size)
    recipe = recipe_for(
        context.config, context.config.sine_steps, learning_rate=3e-4, clip=100.0, b2=0.999
    )
    model = LinearTransformer(num_inputs=1, embed_dim=EMBED, input_mlp_dim=HIDDEN, init_scale=0.002)
    attention = train_model(context, "sine_attention", model, task, recipe)
    descent = train_learner(
        context,
        "sine_descent",
        functools.partial(_descent_apply, model),
        functools.partial(_descent_init, model, task),
        task,
        recipe,
        spec={"learner": "MLP and one gradient step of learned rate"},
    )
    episode = ev.draw(context, "sine_mlp/test", task)
    loss = {
        "MLP + attention": ev.seed_losses(attention.apply, attention.params, episode),
        "MLP + one gradient step": ev.seed_losses(descent.apply, descent.params, episode),
    }
    zero_loss = ev.losses(ev.zero, {}, episode)
    model_loss, gd_loss = loss.values()
    # Two models that both answer zero would agree, too.
    share = float(gd_loss.mean() / zero_loss.mean())
    note = f"the gradient step's loss is {share:.3f} of the zero predictor's"
    if share < 0.5:
        claim = measured("sine_mlp.loss_ratio", model_loss, gd_loss, statistic=ratio, note=note)
    else:
        claim = unjudged("sine_mlp.loss_ratio", f"not trained: {note}")
    table = [ev.row(name, value, gd_loss) for name, value in loss.items()]
    table.append(ev.row("zero predictor", zero_loss, gd_loss))
    arrays = _sine_curves(context, task, attention, descent)
    for name, trained in (("attention", attention), ("descent", descent)):
        arrays |= {f"curve/{name}/step": trained.history["step"],
                   f"curve/{name}/loss": trained.history["loss"]}  # fmt: skip
    return StudyResult(
        [claim],
        {"losses": table},
        arrays,
        ["Amplitude and phase are drawn independently; the authors' code draws both from one key, "
         "so that one determines the other."],
    )  # fmt: skip


def _descent_init(model, task, key):
    sample = sampler_of(dataclasses.replace(task, batch_size=2))
    params = dict(model.init(key, sample(key).prompt)["params"])
    del params["block_0"]
    return {**params, "rate": jnp.ones(())}


def _descent_apply(model, params, prompt):
    """The model with its attention replaced by the construction, at a learned rate."""
    features = {name: value for name, value in params.items() if name != "rate"}
    built = constructions.gd(params["rate"], num_context=prompt.x.shape[1], num_inputs=EMBED - 1)
    return learner(model)({**features, **built}, prompt)


def _sine_curves(context, task, attention, descent):
    """Predictions over a grid of queries for four tasks, of the first seed of both models."""
    episode = ev.draw(context, "sine_mlp/figure", task, 4)
    grid = jnp.linspace(-5, 5, 101)
    prompt = episode.prompt._replace(x_query=jnp.broadcast_to(grid[None, :, None], (4, 101, 1)))
    arrays = {"x": grid, "context/x": prompt.x[..., 0], "context/y": prompt.y[..., 0]}
    for name, trained in (("attention", attention), ("descent", descent)):
        predict = jax.jit(trained.apply)
        arrays[f"prediction/{name}"] = predict(ev.seed(trained.params, 0), prompt)[..., 0]
    arrays = jax.tree.map(np.asarray, arrays)
    # a sin(x + phase) is linear in sin x and cos x: ten points determine the curve.
    waves = [
        np.linalg.lstsq(_waves(x), y, rcond=None)[0]
        for x, y in zip(arrays["context/x"], arrays["context/y"], strict=True)
    ]
    return {**arrays, "target": np.stack(waves) @ _waves(arrays["x"]).T}


def _waves(x_T: np.ndarray) -> np.ndarray:
    return np.stack([np.sin(x_T), np.cos(x_T)], axis=-1)


def token_copy(context) -> StudyResult:
    """Alternating tokens: a softmax layer that copies, then a linear layer that descends."""
    task = task_of(context, batch_size=context.config.deep_batch_size)
    rate = searched_rate(context, "gd-10", task)
    recipe = recipe_for(context.config, context.config.copy_steps, clip=10.0)
    episode = ev.draw(context, "token_copy/test", task)
    gd_loss = ev.losses(algorithms.gd, rate, episode)
    loss, history, trained = {}, {}, {}
    for first in ("softmax", "linear"):
        model = AlternatingTransformer(attention=(first, "linear"), init_scale=0.01)
        trained[first] = train_model(context, f"token_copy-{first}", model, task, recipe)
        loss[first] = ev.seed_losses(trained[first].apply, trained[first].params, episode)
        history[first] = trained[first].history
    model = AlternatingTransformer(attention=("softmax", "linear"), init_scale=0.01)
    params = trained["softmax"].params
    like = ev.likeness(trained["softmax"].apply, params, algorithms.gd, rate, episode)
    partner, weights = _partner_attention(context, model, params, task)
    matching, shuffled = _prefix_matching(context, model, params, task)

    kinds, on_partner = _stronger_kind(partner)
    claims = [
        measured(
            "token_copy.neighbour_attention",
            on_partner,
            note="tokens that attend to the other of their pair, seed by seed: "
            + ", ".join("xy"[kind] for kind in kinds),
        ),
        measured("token_copy.cosine", like["cosine"]),
        _linear_first_layer(loss, gd_loss),
        measured("token_copy.prefix_matching", matching, shuffled, statistic=difference),
    ]
    table = [
        {**ev.row("softmax, then linear", loss["softmax"], gd_loss),
         "cosine with GD": float(like["cosine"].mean())},
        ev.row("linear, then linear", loss["linear"], gd_loss),
        ev.row("gradient descent, 1 step", gd_loss),
    ]  # fmt: skip
    arrays = {"gd_loss": np.asarray(gd_loss.mean()), "weights": weights, **_gradient_norms(
        context, model, params, task)}  # fmt: skip
    for first, h in history.items():
        arrays |= {f"curve/{first}/step": h["step"], f"curve/{first}/loss": h["loss"]}
    arrays |= {"matching": matching.mean(-1), "shuffled": shuffled.mean(-1)}
    return StudyResult(claims, {"losses": table}, arrays)


def _stronger_kind(partner_SKT):
    """Of x and y tokens the kind that attends more to its partner, and its attention [S, T / 2].

    Chosen for each seed on one half of the tasks, measured on the other.
    """
    half = partner_SKT.shape[-1] // 2
    kinds = partner_SKT[..., :half].mean(-1).argmax(-1)
    return kinds, np.stack([of[kind, half:] for of, kind in zip(partner_SKT, kinds, strict=True)])


def _linear_first_layer(loss, gd_loss):
    """Judged only if the same training works with a softmax first layer, its control."""
    claim = "token_copy.linear_first_layer_ratio"
    control = float(loss["softmax"].mean() / gd_loss.mean())
    note = f"softmax first layer, trained alike: ratio {control:.3f}"
    if control >= 1.5:
        return unjudged(claim, f"the control did not learn either; {note}")
    return measured(claim, loss["linear"], gd_loss, statistic=ratio, note=note)


def _over_seeds(function, params, *args):
    return np.asarray(jax.jit(lambda p: jax.lax.map(lambda one: function(one, *args), p))(params))


def _partner_attention(context, model, params, task):
    """Attention of x and of y tokens on the other of their pair [S, 2, T], and mean weights."""
    count = context.config.curve_tasks
    prompt = ev.draw(context, "token_copy/attention", task, count).prompt
    n = prompt.x.shape[1]

    def scores(params):
        weights = model.apply({"params": params}, prompt, 0, method=model.scores)
        return jnp.mean(weights, axis=1)[:, : 2 * n]  # over heads; context tokens only

    weights_STQK = _over_seeds(scores, params)
    x_at, y_at = np.arange(0, 2 * n, 2), np.arange(1, 2 * n, 2)
    on_partner = [weights_STQK[..., a, b].mean(-1) for a, b in ((x_at, y_at), (y_at, x_at))]
    return np.stack(on_partner, axis=1), weights_STQK.mean(1)


def _gradient_norms(context, model, params, task):
    """The paper's probe: how tokens after layer 1 depend on their own, next and other inputs.

    Norm of the mean over tasks of `d sum(token_j after layer 1) / d token_i`, [S, 2N - 1] each.
    """
    count = min(context.config.curve_tasks, 256)
    prompt = ev.draw(context, "token_copy/gradients", task, count).prompt
    n = prompt.x.shape[1]

    def norms(params):
        def first_layer(tokens, position):
            block = model.bind({"params": params}).blocks[0]
            return jnp.sum(block(tokens, 2 * n)[:, position])

        tokens = model.apply({"params": params}, prompt, method=model.tokens)
        gradients = jax.vmap(jax.grad(first_layer), (None, 0))(tokens, jnp.arange(2 * n - 1))
        norm_PI = jnp.linalg.norm(gradients.mean(1), axis=-1)[:, : 2 * n]
        own = jnp.diagonal(norm_PI[:, :-1])
        following = jnp.diagonal(norm_PI[:, 1:])
        others = (norm_PI.sum(-1) - own - following) / (2 * n - 2)
        return jnp.stack([own, following, others])

    values = _over_seeds(norms, params)
    return {f"gradient/{name}": values[:, i] for i, name in enumerate(("own", "next", "other"))}


def _prefix_matching(context, model, params, task):
    """Second-layer attention of a query that repeats one context input: on its pair, on another.

    Shares of the sum of absolute scores over all pairs, [S, T] each (2212.07677, section 5; the
    prefix-matching score of Olsson 2022, with a random other pair as its control).
    """
    episode = ev.draw(context, "token_copy/repeat", task, context.config.eval_tasks)
    n = episode.prompt.x.shape[1]
    place_key, shift_key = jax.random.split(context.key("token_copy/places"))
    count = episode.prompt.x.shape[0]
    place = jax.random.randint(place_key, (count,), 0, n)
    other = (place + jax.random.randint(shift_key, (count,), 1, n)) % n
    repeated = jnp.take_along_axis(episode.prompt.x, place[:, None, None], axis=1)
    prompt = episode.prompt._replace(x_query=repeated)

    def shares(params):
        scores = model.apply({"params": params}, prompt, 1, method=model.scores)
        of_query = jnp.abs(scores[:, :, -1].mean(1)).reshape(count, n, 2).sum(-1)
        share = of_query / of_query.sum(-1, keepdims=True)
        return jnp.stack([jnp.take_along_axis(share, p[:, None], axis=1)[:, 0]
                          for p in (place, other)])  # fmt: skip

    values = _over_seeds(shares, params)
    return values[:, 0], values[:, 1]
