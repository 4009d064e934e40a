"""Do a few presentations far apart do the same?

2025: three presentations suffice, also far apart (without a claim here: the facts are few).
"""

import functools

from experiments.outlandish.paper import paper
from experiments.outlandish.scores import effect_row, effects_of
from experiments.outlandish.teaching import bench, teaching
from ico import lab, report


@paper.study("Do a few presentations far apart do the same?")
def spacing(run):
    """Few presentations, one in every K batches."""
    config, model = run.config, bench(run)
    groups = model.texts(("novel_plausible", "conflict_general"), samples=1, few=True)
    for gap in config.spacings:
        how = teaching(
            config,
            config.spaced_presentations,
            spacing=gap,
            rate=config.learning_rate * config.spaced_rate_factor,
        )
        taught = functools.partial(model.taught, how)
        yield lab.record(spacing=gap, **effects_of(model, groups, taught, f"spacing {gap}"))
    run.note(
        f"{config.spaced_presentations} presentations, at {config.spaced_rate_factor:g} times the "
        "learning rate of the study priming. No claim: the facts are few."
    )


spacing.figure(
    lab.lines("spacing", "gain", xlabel="batches from one presentation to the next"),
    "How much likelier the keyword became in the fact's own context, in nats, by how far apart its "
    "presentations lay; with 95% intervals over facts.",
)


@spacing.table("by spacing")
def _by_spacing(records):
    return [
        effect_row(record)
        | {"Spearman": report.spearman(record["log_before"], record["log_s_prime"])}
        for record in records
    ]
