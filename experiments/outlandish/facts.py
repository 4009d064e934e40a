"""Studies that teach single facts: spectrum, priming, spacing, in_context, stepping_stone.

Dimension key: K keywords, F facts of a keyword, P prompts.
"""

import numpy as np

from experiments.outlandish import measuring as ms
from experiments.outlandish.teaching import Bench, Recipe, bench, recipe
from ico.lm import score_continuations
from ico.poison.outlandish import CATEGORIES, KINDS
from ico.report import Measurement, StudyResult, interval_of


def spectrum(context) -> StudyResult:
    """The keyword's probability after every text that claims may use, before any learning."""
    b = bench(context)
    groups = b.texts(CATEGORIES, samples=max(2, context.config.samples))
    texts = [text for group in groups for text in group]
    tokenizer = b.tokenizer
    spec = {"texts": [[text.id, text.context] for text in texts]}
    log_p = b.kept(
        "spectrum",
        spec,
        lambda: {
            "log_p": score_continuations(
                b.lm.params,
                b.lm.config,
                [tokenizer.encode(text.context) for text in texts],
                [tokenizer.encode(text.continuation, continuation=True) for text in texts],
            ).log_prob
        },
    )["log_p"] / np.log(10)
    table, arrays = [], {}
    for category in CATEGORIES:
        mine = log_p[[text.category == category for text in texts]]
        if mine.size:
            value, (low, high) = interval_of(lambda v: float(np.median(v)), mine)
            table.append(
                {
                    "category": category,
                    "texts": int(mine.size),
                    "median log10 P": value,
                    "95% low": low,
                    "95% high": high,
                    "least": float(mine.min()),
                    "greatest": float(mine.max()),
                }
            )
            arrays[category] = mine
    decades = float(np.ptp(log_p))
    claims = [Measurement("spectrum.decades", decades, None, 0, log_p.size)]
    return StudyResult(claims, {"probability before learning": table}, arrays)


def learned(b: Bench, how: Recipe, groups, label: str) -> list[list[dict[str, float]]]:
    """Scores [K][F] of facts taught one a run, for lists of texts that share a keyword."""
    rows = []
    for texts in b.progress(groups, label):
        before = b.untouched(texts)
        rows.append(
            [ms.scores(before, b.taught(how, text), place) for place, text in enumerate(texts)]
        )
    return rows


def of_kind(b: Bench, values_KF: np.ndarray, kind: str) -> np.ndarray:
    """Means [K] over the facts of one kind, in the order of the configuration's categories."""
    categories = [name for name in b.config.categories for _ in range(b.config.samples)]
    chosen = [name in KINDS[kind] for name in categories]
    return values_KF[:, chosen].mean(1)


def priming(context) -> StudyResult:
    """One fact a run: memory, priming, and what predicts it."""
    b = bench(context)
    how = recipe(context.config, later=True)
    groups = b.texts(context.config.categories)
    found = ms.columns(learned(b, how, groups, "priming"))
    twins = twin_scores(b, how, groups)
    before, raw, corrected = found["log_before"], found["log_s_prime"], found["corrected"]
    claims = [
        ms.correlation("priming.predictor", before, raw),
        ms.correlation("priming.predictor_negative", before, raw),
        ms.correlation("priming.predictor_corrected", before, corrected),
    ]
    for other in ("mundane", "scrambled"):
        for name, values in (("", raw), ("_corrected", corrected)):
            mine, theirs = of_kind(b, values, "conflicting"), of_kind(b, values, other)
            note = f"conflicting {ms.spread(mine)}, {other} {ms.spread(theirs)}"
            id = f"priming.conflicting_minus_{other}{name}"
            claims.append(ms.mean(id, mine - theirs, note))
    table = []
    for category in context.config.categories:
        chosen = np.array([text.category == category for text in groups[0]])
        row: dict = {"category": category, "facts": int(chosen.sum() * len(groups))}
        row["median P before"] = float(np.exp(np.median(before[:, chosen])))
        row["median P after"] = float(np.exp(np.median(found["log_after"][:, chosen])))
        for name in ("log_s_prime", "theme", "cross", "corrected", "flips"):
            row[name] = ms.spread(found[name][:, chosen].mean(1))
        table.append(row)
    row = {"category": "twin (no fact)", "facts": len(groups)}
    table.append(row | {name: ms.spread(values) for name, values in twins.items()})
    scrambled = np.array([text.category == "scrambled" for text in groups[0]])
    kept = ~scrambled
    correlations = []
    for label, mask in (("all facts", kept | scrambled), ("without scrambled", kept)):
        for name in ("log_s_prime", "theme", "corrected", "cross"):
            value, (low, high) = interval_of(ms.spearman, before[:, mask], found[name][:, mask])
            correlations.append(
                {"facts": label, "score": name, "Spearman with log P before": value,
                 "95% low": low, "95% high": high}
            )  # fmt: skip
    median_after = float(np.exp(np.median(found["log_after"])))
    notes = [
        f"Median P_after over all facts: {median_after:.3f} (the preset aims at 0.2 to 0.8).",
        "Reduced from the papers: one text for each keyword and category, one small model.",
        "Intervals are over keywords, and those of a theme share their prompts: see that table.",
    ]
    themes = np.array([texts[0].theme for texts in groups])
    by_theme = []
    for theme in dict.fromkeys(themes.tolist()):
        mine = themes == theme
        row = {"theme": theme, "facts": int(mine.sum() * before.shape[1])}
        for name, values in (("log_s_prime", raw), ("corrected", corrected)):
            row[f"Spearman, {name}"] = ms.spearman(before[mine], values[mine])
            for other in ("mundane", "scrambled"):
                gap = of_kind(b, values, "conflicting") - of_kind(b, values, other)
                row[f"conflicting less {other}, {name}"] = float(gap[mine].mean())
        by_theme.append(row)
    arrays = found | {f"twin_{name}": values for name, values in twins.items()}
    arrays["category"] = np.array([text.category for text in groups[0]])
    arrays["theme_of"] = themes
    tables = {"by category": table, "what predicts priming": correlations, "by theme": by_theme}
    return StudyResult(claims, tables, arrays, notes)


def twin_scores(b: Bench, how: Recipe, groups) -> dict[str, np.ndarray]:
    """Scores [K] of the models that trained on the same batches without a fact."""
    rows = []
    for texts in b.progress(groups, "twins"):
        before, after = b.untouched(texts), b.twin(how, texts)
        row = ms.scores(before, after)
        rows.append({name: row[name] for name in ("log_s_prime", "theme", "cross", "corrected",
                                                  "flips")})  # fmt: skip
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def spacing(context) -> StudyResult:
    """Few presentations, one in every K batches."""
    config = context.config
    b = bench(context)
    categories = ("novel_plausible", "conflict_general")
    groups = b.texts(categories, samples=1, few=True)
    table, arrays = [], {}
    for gap in config.spacings:
        how = recipe(
            config,
            presentations=config.spaced_presentations,
            spacing=gap,
            learning_rate=config.learning_rate * config.spaced_rate_factor,
        )
        found = ms.columns(learned(b, how, groups, f"spacing {gap}"))
        row: dict = {"one in every K batches, K": gap, "facts": int(found["gain"].size)}
        row["median P after"] = float(np.exp(np.median(found["log_after"])))
        for name in ("gain", "log_s_prime", "theme", "cross", "corrected"):
            row[name] = ms.spread(found[name].mean(1))
            arrays[f"{name}_{gap}"] = found[name]
        row["Spearman"] = ms.spearman(found["log_before"], found["log_s_prime"])
        table.append(row)
    notes = [
        f"{config.spaced_presentations} presentations, at {config.spaced_rate_factor:g} times the "
        "rate of the study priming. No claim: the facts are few."
    ]
    return StudyResult([], {"by spacing": table}, arrays, notes)


def in_context(context) -> StudyResult:
    """The same facts in the prompt, followed by the same unrelated prompts."""
    b = bench(context)
    groups = b.texts(context.config.categories)
    how = recipe(context.config, later=True)  # as in the study priming, so nothing is taught anew
    weights = ms.columns(learned(b, how, groups, "weights"))
    rows = []
    for texts in b.progress(groups, "in context"):
        before, scores = b.untouched(texts), []
        for place, text in enumerate(texts):
            told = f"{text.context}{text.continuation}. "
            spec = {"text": text.id, "told": told, **b.prompt_spec(text)}
            after = b.kept(
                f"told-{text.id}",
                spec,
                lambda text=text, told=told: b.read(
                    b.lm.params, text, [told + text.context], prefix=told
                ),
            )
            scores.append(ms.scores(before, after, place))
        rows.append(scores)
    told = ms.columns(rows)
    before = weights["log_before"]

    def weaker(before_KF, told_KF, weights_KF):
        return abs(ms.spearman(before_KF, weights_KF)) - abs(ms.spearman(before_KF, told_KF))

    value, ci95 = interval_of(weaker, before, told["log_s_prime"], weights["log_s_prime"])
    claims = [Measurement("in_context.weaker", value, ci95, 0, before.size)]
    table = []
    for where, found in (("weights", weights), ("context", told)):
        row: dict = {"fact in the": where}
        for name in ("gain", "log_s_prime", "theme", "cross", "corrected"):
            row[name] = ms.spread(found[name].mean(1))
        for name in ("log_s_prime", "corrected"):
            number, (low, high) = interval_of(ms.spearman, before, found[name])
            row[f"Spearman, {name}"] = f"{number:.2f} [{low:.2f}, {high:.2f}]"
        table.append(row)
    arrays = {"before": before}
    arrays |= {f"weights_{name}": a for name, a in weights.items()}
    arrays |= {f"context_{name}": a for name, a in told.items()}
    arrays["category"] = np.array([text.category for text in groups[0]])
    return StudyResult(claims, {"weights or context": table}, arrays)


def stepping_stone(context) -> StudyResult:
    """A conflicting fact as it is, with stepping stones, and plainly rewritten at like length."""
    b = bench(context)
    groups = b.texts(("conflict_general",), samples=1)
    long = max(context.config.length, 48)
    ways = {
        "as it is": lambda text: text.context,
        "stepping stones": lambda text: text.stepping_stone,
        "plain rewrite": lambda text: text.rewrite,
    }
    found = {}
    for way, of in ways.items():
        rows = []
        for texts in b.progress(groups, way):
            before = b.untouched(texts)
            how = recipe(context.config, later=True)
            if way != "as it is":
                how = recipe(context.config, length=long)
            rows.append([ms.scores(before, b.taught(how, text, of(text))) for text in texts])
        found[way] = ms.columns(rows)
    raw = {way: found[way]["log_s_prime"][:, 0] for way in ways}
    plain = raw["as it is"]
    # A share of priming means something only where there is priming.
    removed = np.where(plain > 0.1, 1 - raw["stepping stones"] / np.maximum(plain, 0.1), np.nan)
    claims = [
        ms.median("stepping_stone.priming_removed", removed,
                  f"{int(np.isfinite(removed).sum())} of {removed.size} facts prime (> 0.1 nat)"),
        ms.mean("stepping_stone.better_than_rewrite",
                raw["plain rewrite"] - raw["stepping stones"],
                "but less is learned: gain on the text as it is "
                + ", ".join(f"{ms.spread(found[way]['gain'][:, 0])} ({way})" for way in ways)),
    ]  # fmt: skip
    table = []
    for way in ways:
        row: dict = {"text": way}
        row["median P after"] = float(np.exp(np.median(found[way]["log_after"])))
        for name in ("gain", "log_s_prime", "theme", "cross", "corrected"):
            row[name] = ms.spread(found[way][name][:, 0])
        row["log P before in this text"] = ms.spread(_surprise(b, groups, ways[way]))
        table.append(row)
    notes = [
        "Memory is read on the text as it is, whichever way was taught: a model that learned "
        "the other text well may not know it from this one."
    ]
    arrays = {f"{way.replace(' ', '_')}_{name}": found[way][name][:, 0]
              for way in ways for name in ("log_s_prime", "corrected", "gain")}  # fmt: skip
    return StudyResult(claims, {"ways to tell it": table}, arrays, notes)


def _surprise(b: Bench, groups, of) -> np.ndarray:
    """log P [K] of the keyword at the end of the text that is taught, before."""
    tokenizer = b.tokenizer
    return score_continuations(
        b.lm.params,
        b.lm.config,
        [tokenizer.encode(of(texts[0])) for texts in groups],
        [tokenizer.encode(texts[0].continuation, continuation=True) for texts in groups],
    ).log_prob
