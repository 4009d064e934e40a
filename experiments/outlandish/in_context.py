"""And if the fact stands in the prompt instead of the weights?

2025, Fig. 22: the relation between surprise and priming is then much weaker.
"""

import functools

from experiments.outlandish.paper import LATER, paper
from experiments.outlandish.scores import (
    across,
    by_category,
    correlations,
    effects_of,
    plot_against_surprise,
    spread,
)
from experiments.outlandish.teaching import bench, teaching
from ico import lab, report


@paper.study("And if the fact stands in the prompt instead of the weights?")
def in_context(run):
    """The same facts in the prompt, followed by the same unrelated prompts."""
    model = bench(run)
    groups = model.texts(run.config.categories)
    # As in the study priming, so nothing is taught anew.
    taught = functools.partial(model.followed, teaching(run.config))
    weights = effects_of(model, groups, taught, "weights")
    yield from by_category(groups, weights, where="weights")

    def told(text):
        fact = f"{text.context}{text.continuation}. "
        spec = {"text": text.id, "told": fact, **model.spec(text)}

        def make():
            return model.read(model.lm.params, text, [fact + text.context], prefix=fact)

        return model.kept(f"told-{text.id}", spec, make)

    context = effects_of(model, groups, told, "in context")
    yield from by_category(groups, context, where="context")


@in_context.claim(
    "weaker",
    "With the fact in the prompt the relation is weaker: size of the Spearman correlation for the "
    "weights less its size for the prompt",
    f"{LATER}, Fig. 22",
    band=(0.0, None),
    unit="Spearman correlation",
)
def _weaker(records):
    weights, context = (records.where(where=where) for where in ("weights", "context"))

    def difference(before_KF, told_KF, taught_KF):
        return abs(report.spearman(before_KF, taught_KF)) - abs(report.spearman(before_KF, told_KF))

    before = across(weights, "log_before")
    raw = across(context, "log_s_prime"), across(weights, "log_s_prime")
    return lab.Measurement(*report.interval_of(difference, before, *raw), 0, before.size)


@in_context.table("weights or context")
def _weights_or_context(records):
    rows = []
    for where in ("weights", "context"):
        some = records.where(where=where)
        names = ("gain", "log_s_prime", "theme", "cross", "corrected")
        row = {"fact in the": where} | {n: spread(across(some, n).mean(1)) for n in names}
        rows.append(row | correlations(some, "log_s_prime", "corrected"))
    return rows


@in_context.figure(
    "2025, Fig. 22. The same score after learning the fact, and with the fact put before the "
    "prompts instead.",
    name="in_context",
)
def _against_surprise(records):
    fig, axes = report.canvas(2)
    for ax, where in zip(axes[0], ("weights", "context"), strict=True):
        plot_against_surprise(ax, records.where(where=where), "log_s_prime")
        ax.set_title(f"the fact in the {where}")
    axes[0, 0].set_ylabel("log S_prime (nats)")
    report.legend_below(fig, axes)
    return fig
