"""How likely is the keyword before learning, by category of text?

The papers' texts reach from true statements to scrambled words (2025, Fig. 2: the keyword's
probability before learning). Ours were written by hand after their description.
"""

import numpy as np

from experiments.outlandish.paper import LATER, paper
from experiments.outlandish.teaching import bench
from ico import lab, report
from ico.poison.outlandish import CATEGORIES


@paper.study("How likely is the keyword before learning, by category of text?")
def spectrum(run):
    """The keyword's probability after every text that claims may use, before any learning."""
    model = bench(run)
    groups = model.texts(CATEGORIES, samples=max(2, run.config.samples))
    texts = [text for group in groups for text in group]
    prompts = [text.context for text in texts], [text.continuation for text in texts]
    found = model.kept(
        "spectrum",
        {"texts": [[text.id, text.context] for text in texts]},
        lambda: {"log_p": model.score(model.lm.params, *prompts).log_prob},
    )
    log10_p = found["log_p"] / np.log(10)
    for category in CATEGORIES:
        mine = [text.category == category for text in texts]
        yield lab.record(category=category, log10_p=log10_p[mine])


@spectrum.claim(
    "decades",
    "The texts span at least six decades of the keyword's probability before learning",
    f"ours, after {LATER}, Fig. 2",
    band=(6.0, None),
    unit="decades",
    kind="ours",
)
def _decades(records):
    log10_p = records.stack("log10_p")
    return lab.Measurement(np.ptp(log10_p), None, 0, log10_p.size)


@spectrum.table("probability before learning")
def _by_category(records):
    rows = []
    for record in records:
        values = record["log10_p"]
        median, (low, high) = report.interval_of(np.median, values)
        row = {"category": record["category"], "texts": values.size, "median log10 P": median}
        row |= {"95% low": low, "95% high": high}
        rows.append(row | {"least": float(values.min()), "greatest": float(values.max())})
    return rows


@spectrum.figure(
    "The keyword's probability after every text, before learning; bars are medians.",
    name="spectrum",
)
def _every_text(records):
    fig, axes = report.canvas(1, height=4.2)
    ax, (blue, vermilion, *_) = axes[0, 0], report.palette()
    for place, record in enumerate(records):
        values = np.sort(record["log10_p"])
        spread = place + 0.5 * (np.arange(len(values)) / max(1, len(values) - 1) - 0.5)
        ax.plot(values, spread, "o", color=blue, alpha=0.6, markersize=4)
        ax.plot([np.median(values)] * 2, [place - 0.35, place + 0.35], color=vermilion)
    names = [category.replace("_", " ") for category in records.axis("category")]
    ax.set_yticks(range(len(names)), names)
    ax.invert_yaxis()
    ax.set_xlabel("log10 P(keyword | context) before learning")
    return fig
