"""The study table1, and profiles over the noise level.

Dimension key: S seeds, T tasks, L layers, G noise levels.
"""

import jax
import jax.numpy as jnp
import numpy as np

from experiments.noisy_regression import evaluation as ev
from experiments.noisy_regression.claims import ONE_LAYER, ONE_LAYER_NOISE_FREE, TABLE
from experiments.noisy_regression.training import excess, name_of
from ico.report import Measurement, StudyResult, difference, interval, measured, ratio, unjudged

_PUBLISHED = ("GD++", "DIAG", "FULL")


def models_of(config) -> list[tuple[str, int]]:
    """Variants and depths of the table."""
    some = [(v, d) for v in ("GD++", "DIAG", "DIAG, free scalars") for d in config.depths]
    some += [("FULL", depth) for depth in config.full_depths]
    if config.deep_depth not in config.depths:
        some.append(("DIAG", config.deep_depth))
    return some


def published(setting: str, variant: str, depth: int) -> float | None:
    """The paper's number for a trained model, if it prints one."""
    if depth == 1 and variant in _PUBLISHED:
        return ONE_LAYER.get(setting)
    return TABLE.get(setting, {}).get(f"{variant} {depth}")


def table1(context) -> StudyResult:
    """Every variant, depth and noise setting beside the baselines, on the same contexts."""
    config = context.config
    contexts = ev.draw(context, "table1/test", config.eval_tasks)
    losses: dict[tuple[str, str], np.ndarray] = {}  # (setting, learner) -> [T]
    rows, notes_of = [], {}
    for noise in config.settings:
        setting, at = name_of(noise), ev.bed(contexts, noise)
        for name, loss in ev.baseline_losses(context, noise, at).items():
            losses[setting, name] = loss
            rows.append(_row(setting, name, None, loss, TABLE.get(setting, {}).get(name)))
    for variant, depth in models_of(config):
        trained, settings = ev.train_variant(context, variant, depth)
        for place, noise in enumerate(settings):
            setting, at = name_of(noise), ev.bed(contexts, noise)
            chosen = ev.best(context, variant, depth, noise)
            by_seed = [
                ev.loss_of(trained.model, ev.one(trained, place, seed), at)
                for seed in range(config.num_seeds)
            ]
            loss = by_seed[chosen.seed]
            losses[setting, f"{variant} {depth}"] = loss
            row = _row(setting, variant, depth, loss, published(setting, variant, depth))
            means = [float(seed.mean()) for seed in by_seed]
            row |= {"mean of seeds": float(np.mean(means)), "worst seed": max(means),
                    "best seed": chosen.seed,
                    f"share of contexts beyond {ev.FAR:g}": ev.share_far(loss)}  # fmt: skip
            rows.append(row)
            notes_of[setting, f"{variant} {depth}"] = (
                f"the best of {config.num_seeds} seeds of {variant}, {depth} layers; their mean "
                f"loss is {np.mean(means):.3g}, the worst {max(means):.3g}"
            )
    order = [name_of(noise) for noise in config.settings]
    rows.sort(key=lambda row: order.index(row["noise up to, or among"]))
    arrays = {
        f"{row['noise up to, or among']}/{_key(row)}": np.array(
            [row["95% low"], row["95% high"], row["loss"]]
        )
        for row in rows
    }
    better = [
        f"{_key(row)} at {row['noise up to, or among']}"
        for row in rows
        if row["paper"] and row["95% high"] < row["paper"]
    ]
    notes = [
        "Losses are 1/2 |w - w_oracle|^2, the expected excess over the ridge oracle that knows "
        "sigma. The best seed is chosen on other contexts, as in the paper.",
        f"FULL is trained with {', '.join(map(str, config.full_depths))} layers"
        + ("." if config.full_everywhere else ", at noise up to 5 alone."),
        f"Better than the paper's number, their interval below it: {', '.join(better) or 'none'}.",
    ]
    tables = {"losses": rows, "two forms of the loss": [_two_forms(context, contexts)]}
    return StudyResult(_claims(config, losses, notes_of), tables, arrays, notes)


def _key(row: dict) -> str:
    """Learner and layers, as the table of the paper names them here."""
    return f"{row['learner']} {row['layers']}" if row["layers"] else row["learner"]


def _row(setting, learner, depth, loss_T, paper) -> dict:
    value, (low, high) = interval(loss_T)
    return {
        "noise up to, or among": setting, "learner": learner, "layers": depth, "loss": value,
        "95% low": low, "95% high": high, "mean of seeds": None, "worst seed": None,
        "paper": paper, "ratio": value / paper if paper else None,
    }  # fmt: skip


def _two_forms(context, contexts) -> dict:
    """The paper's adjusted loss of one query beside its expectation, for the deepest DIAG."""
    depth = max(context.config.depths)
    chosen, at = ev.best(context, "DIAG", depth), ev.bed(contexts, ev.STRONG)
    w = ev.weights_of(chosen.model, chosen.params, at.statistics)
    x = jax.random.normal(context.key("table1/query"), w.shape)

    def half_square(weights):
        return 0.5 * jnp.sum((weights - at.truth) * x, axis=1) ** 2

    raw = np.asarray(half_square(w) - half_square(at.oracle))
    expected = np.asarray(excess(w, at.oracle))
    gap, (low, high) = interval(raw, expected, statistic=difference)
    return {
        "model": f"DIAG, {depth} layers, noise up to 5", "one query": float(raw.mean()),
        "expectation": float(expected.mean()), "difference": gap, "95% low": low,
        "95% high": high, "ratio of standard errors": float(raw.std() / expected.std()),
    }  # fmt: skip


def _claims(config, losses, notes_of=None) -> list[Measurement]:
    notes_of = notes_of or {}
    names = [f"table1.{name}" for name in (
        "const_and_ada", "tuned", "noise_free_baselines", "one_layer", "one_layer_noise_free",
        "two_layers", "four_layers", "diag_below_ada", "gd_plus_plus_like_const",
        "diag_like_full", "seven_layers")]  # fmt: skip
    if (config.num_inputs, config.num_context) != (10, 20):
        return [unjudged(name, "Table 1 is of 10 inputs and 20 pairs") for name in names]

    def to_paper(claim, learners, *, noise_free=False, settings=()):
        """Losses over the paper's, for all cells of some learners, or those at some settings."""
        pairs = []
        for (setting, learner), loss in losses.items():
            paper = TABLE.get(setting, {}).get(learner)
            if learner.endswith(" 1"):
                paper = ONE_LAYER.get(setting)
            wanted = setting in settings if settings else noise_free or setting != "0"
            if learner in learners and paper and wanted:
                pairs += [loss, np.full(len(loss), paper)]
        if not pairs:
            return unjudged(claim, "none of its cells was measured")
        return ev.all_measured(claim, *pairs, statistic=ratio)

    def of(learner, setting="5"):
        return losses.get((setting, learner))

    claims = [
        to_paper("table1.const_and_ada", ("ConstRR", "AdaRR")),
        to_paper("table1.tuned", ("TunedRR",)),
        to_paper("table1.one_layer", [f"{v} 1" for v in _PUBLISHED]),
        to_paper("table1.two_layers", [f"{v} 2" for v in _PUBLISHED], noise_free=True),
        to_paper("table1.four_layers", ("DIAG 4",), settings=("3", "5")),
    ]
    zero = [of(name, "0") for name in ("ConstRR", "AdaRR", "TunedRR")]
    if zero[0] is not None:
        worst = zero[int(np.argmax([np.mean(loss) for loss in zero]))]  # which finds nan
        claims.append(measured("table1.noise_free_baselines", worst))
    ones = [loss for v in _PUBLISHED if (loss := of(f"{v} 1", "0")) is not None]
    if ones:
        form = np.full(len(ones[0]), ONE_LAYER_NOISE_FREE)
        pairs = [sample for loss in ones for sample in (loss, form)]
        claims.append(ev.all_measured("table1.one_layer_noise_free", *pairs, statistic=ratio))
    for claim, a, b, statistic in (
        ("diag_below_ada", "AdaRR", "DIAG 4", difference),
        ("gd_plus_plus_like_const", "GD++ 4", "ConstRR", ratio),
        ("diag_like_full", "DIAG 4", "FULL 4", ratio),
        ("seven_layers", "DIAG 7", "TunedRR", ratio),
    ):
        first, second = of(a), of(b)
        if first is not None and second is not None:
            said = "; ".join(notes_of[key] for key in (("5", a), ("5", b)) if key in notes_of)
            claims.append(measured(f"table1.{claim}", first, second, statistic=statistic,
                                   note=said))  # fmt: skip
    known = {claim.claim for claim in claims}
    missing = [name for name in names if name not in known]
    return claims + [unjudged(name, "a model that it is about was not trained") for name in missing]


def levels(context, top: float = ev.STRONG) -> np.ndarray:
    """Noise levels from none to one more than the models were trained with."""
    return np.linspace(0, top + 1, 13 if context.preset != "smoke" else 4)


def per_noise_profile(context) -> StudyResult:
    """Losses at fixed noise levels, of models and baselines tuned for noise up to 5."""
    config = context.config
    contexts = ev.draw(context, "profile/test", config.profile_tasks)
    wanted = [("GD++", max(config.depths)), *(("DIAG", depth) for depth in config.depths),
              ("FULL", max(config.full_depths)), ("DIAG", config.deep_depth)]  # fmt: skip
    models = {f"{v}, {d} layers": ev.best(context, v, d) for v, d in dict.fromkeys(wanted)}
    fitted = ev.baselines(context, ev.STRONG)
    grid = levels(context)
    found: dict[str, list] = {name: [] for name in (*models, *fitted)}
    rows = []
    for sigma in grid:
        at = ev.bed_at(contexts, float(sigma))
        row: dict = {"sigma": float(sigma)}
        for name, chosen in models.items():
            found[name].append(ev.loss_of(chosen.model, chosen.params, at))
        for name, weights in fitted.items():
            found[name].append(np.asarray(excess(weights(at.statistics), at.oracle)))
        rows.append(row | {name: float(values[-1].mean()) for name, values in found.items()})
    arrays = {"sigma": grid}
    for name, values in found.items():
        ends = np.array([interval(loss)[1] for loss in values])
        mean = np.array([loss.mean() for loss in values])
        arrays[f"loss/{name}"] = np.stack([mean, *ends.T])
    notes = ["Trained and tuned for noise up to 5; the last two levels lie beyond it."]
    return StudyResult([], {"loss by noise level": rows}, arrays, notes)


def layer_predictions(context) -> StudyResult:
    """The implicit model after each layer: its loss, and its length along the oracle's weights."""
    config = context.config
    contexts = ev.draw(context, "layers/test", config.profile_tasks)
    wanted = {"DIAG": max(config.depths), "GD++": max(config.depths),
              "FULL": max(config.full_depths)}  # fmt: skip
    rows, arrays = [], {}
    sigmas = (0.0, 1.0, 3.0, 5.0)
    arrays["sigma"] = np.array(sigmas)
    deep = (("DIAG", config.deep_depth),)
    for variant, depth in (*wanted.items(), *deep):
        chosen = ev.best(context, variant, depth)
        name = f"{variant}, {depth} layers"
        loss_GL, length_GL = [], []
        for sigma in sigmas:
            at = ev.bed_at(contexts, sigma)
            w_LTD = ev.weights_of(chosen.model, chosen.params, at.statistics, True)
            loss = np.asarray(excess(w_LTD, at.oracle[None])).mean(1)
            along = np.asarray(jnp.sum(w_LTD * at.oracle[None], -1)).mean(1)
            length = along / float(jnp.mean(jnp.sum(at.oracle**2, -1)))
            loss_GL.append(loss)
            length_GL.append(length)
            rows += [
                {"model": name, "sigma": sigma, "layer": layer + 1, "loss": float(loss[layer]),
                 "length along the oracle": float(length[layer])}
                for layer in range(depth)
            ]  # fmt: skip
        arrays[f"loss/{name}"] = np.array(loss_GL)
        arrays[f"length/{name}"] = np.array(length_GL)
    notes = ["Length along the oracle: E<w_l, w_oracle> / E|w_oracle|^2, one where they agree."]
    return StudyResult([], {"after each layer": rows}, arrays, notes)
