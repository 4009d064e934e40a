"""Effects of taught facts, and statistics of them. Intervals are over keywords, not facts.

Facts of one keyword are alike. Means over keywords have Student's t interval. Keywords of a theme
share their prompts, so they are not wholly independent either, but four themes are too few to be
the unit of resampling.

Dimension key: K keywords, F facts of a keyword, S worlds.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from experiments.outlandish.teaching import Bench
from ico import lab
from ico.poison import Reading, effects
from ico.poison.outlandish import CATEGORIES, KINDS, Text
from ico.report import interval, interval_of, panels, spearman

LEAST_FOR_MEDIAN = 6  # keywords; the percentiles of a median of fewer mean nothing
LEAST_GAIN = 1.0  # nats; a fact that gained less counts as not learned
LEAST_PRIMING = 0.1  # nats; a fact that primes less counts as not priming
TABLED = ("gain", "log_s_prime", "theme", "cross", "corrected", "flips")

Groups = Sequence[Sequence[Text]]  # one list of facts for each keyword


def effects_of(
    bench: Bench, groups: Groups, after: Callable[[Text], Reading], label: str
) -> dict[str, np.ndarray]:
    """Effects [K, F] of facts, one by one, from the reading `after` each was learned."""
    rows_KF = []
    for texts in bench.progress(groups, label):
        before = bench.untouched(texts)
        rows_KF.append([effects(before, after(text), i) for i, text in enumerate(texts)])
    names = rows_KF[0][0]
    return {name: np.array([[row[name] for row in rows] for rows in rows_KF]) for name in names}


def by_category(groups: Groups, found: dict[str, np.ndarray], **axes) -> Iterator[lab.Record]:
    """A record for each category of fact, of what was found of all [K, F]."""
    categories = [text.category for text in groups[0]]
    themes = np.array([texts[0].theme for texts in groups])
    for category in dict.fromkeys(categories):
        mine = [name == category for name in categories]
        values = {name: values[:, mine] for name, values in found.items()}
        yield lab.record(category=category, **axes, keyword_theme=themes, **values)


def across(records: lab.Records, value: str, kind: str = "") -> np.ndarray:
    """A value [K, F] of all facts, or of those of one of `KINDS`."""
    chosen = records.where(category=list(KINDS[kind] if kind else CATEGORIES))
    return np.concatenate([record[value] for record in chosen], axis=1)


def correlation(x_KF, y_KF) -> lab.Measurement:
    """A rank correlation over facts, with its interval over keywords."""
    value, ci95 = interval_of(spearman, x_KF, y_KF)
    return lab.Measurement(value, ci95, 0, np.size(x_KF))


def correlations(records: lab.Records, *names: str) -> dict[str, str]:
    """Table cells: how the probability before learning predicts some effects."""
    row = {}
    for name in names:
        found = correlation(across(records, "log_before"), across(records, name))
        low, high = found.ci95 or (np.nan, np.nan)
        row[f"Spearman, {name}"] = f"{found.value:.2f} [{low:.2f}, {high:.2f}]"
    return row


def mean_of(values, note: str = "") -> lab.Measurement:
    """A mean over keywords [K], or worlds and their facts [S, F], with its interval.

    NaN is left out: keywords that are undefined, and facts that are undefined in any world.
    """
    values = _defined(values)
    if values.shape[1] == 0 or len(values) < 2:
        return lab.unjudged(note or "fewer than two facts for which it is defined")
    value, ci95 = interval(values)
    # Keywords are no seeds: one model, taught different facts.
    num_worlds = len(values) if values.shape[1] > 1 else 0
    return lab.Measurement(value, ci95, num_worlds, values.size, note)


def median_of(values_K, note: str = "") -> lab.Measurement:
    """A median over keywords with its interval; NaN is left out."""
    values = _defined(values_K)[:, 0]
    if values.size < LEAST_FOR_MEDIAN:
        return lab.unjudged(note or f"fewer than {LEAST_FOR_MEDIAN} facts where it is defined")
    value, ci95 = interval_of(np.median, values)
    return lab.Measurement(value, ci95, 0, values.size, note)


def spread(values) -> str:
    """A mean and its interval in words, for tables; facts [K, F] are averaged for each keyword."""
    values = _defined(values)
    if values.size < 2:
        return f"{values[0, 0]:.3g}" if values.size else "-"
    value, (low, high) = interval(values)
    return f"{value:.3g} [{low:.3g}, {high:.3g}]"


def effect_row(record: lab.Record) -> dict:
    """A table row: the axes of a record, and its effects [K] or [K, F] over keywords."""
    row = {**record.axes, "facts": record["theme"].size}
    for name, when in (("log_before", "before"), ("log_after", "after")):
        if name in record:
            row[f"median P {when}"] = median_probability(record[name])
    names = [name for name in TABLED if name in record]
    return row | {
        name: spread(record[name].reshape(len(record[name]), -1).mean(1)) for name in names
    }


def plot_against_surprise(ax, records: lab.Records, name: str) -> None:
    """An effect of every fact over log10 P before; a look a theme, open where scrambled."""
    for record in records.where(category=list(CATEGORIES)):
        themes = record["keyword_theme"]
        for number, theme in enumerate(dict.fromkeys(themes.tolist())):
            mine, scrambled = themes == theme, record["category"] == "scrambled"
            look = panels.look(number) | {"linestyle": "none", "fillstyle": "full"}
            look |= {"fillstyle": "none"} if scrambled else {"label": theme}
            before = record["log_before"][mine].ravel() / np.log(10)
            ax.plot(before, record[name][mine].ravel(), **look)
    ax.axhline(0, color="black", linewidth=0.8)
    ax.set_xlabel("log10 P before")


def median_probability(log_p) -> float:
    """The median of probabilities, from their logarithms."""
    return float(np.exp(np.median(log_p)))


def numbers(sort: str = "") -> Callable[[lab.Records], list[dict]]:
    """A table: the axes of each record, and those of its values that are one number."""

    def table(records):
        return [
            {**record.axes}
            | {
                name: np.asarray(value).item() if np.isfinite(value) else "none"
                for name, value in record.values.items()
                if np.ndim(value) == 0
            }
            for record in records[sort]
        ]

    return table


def _defined(values) -> np.ndarray:
    """Values of keywords as [K, 1], of worlds [S, F], without what is undefined in any."""
    values = np.asarray(values, dtype=float)
    if values.ndim == 1:
        return values[np.isfinite(values)][:, None]
    return values[:, np.isfinite(values).all(0)]
