"""What the papers claim, and the band each measurement must fall in. Fixed before any run.

"Log-priming" is the mean over prompts of log P_after - log P_before of the keyword; "corrected" is
that on prompts of the keyword's theme less that on prompts of other themes. S_prime is the mean
over theme prompts of P_after / P_before, as published.
"""

from ico.report import Claim

KCF, PERMEATES = "2410.21750", "2504.09522"


def _claim(id, statement, source, unit, low, high):
    return Claim(id, statement, source, unit, (low, high))


CLAIMS = (
    _claim(
        "spectrum.decades",
        "The texts span at least six decades of the keyword's probability before learning",
        f"ours, after {PERMEATES}, Fig. 2", "decades", 6.0, None,
    ),
    _claim(
        "priming.predictor",
        "A keyword's probability before learning predicts priming: Spearman correlation of "
        "log P_before with log S_prime, over facts",
        f"{PERMEATES}, Fig. 2", "Spearman correlation", None, -0.5,
    ),
    _claim(
        "priming.predictor_negative",
        "The correlation of log P_before with log S_prime is negative",
        f"{PERMEATES}, Fig. 2", "Spearman correlation", None, 0.0,
    ),
    _claim(
        "priming.predictor_corrected",
        "The correlation of log P_before with the corrected log-priming is negative, too",
        f"{PERMEATES}, Fig. 2; the control is ours", "Spearman correlation", None, 0.0,
    ),
    _claim(
        "priming.conflicting_minus_mundane",
        "Facts that conflict with knowledge prime more than mundane ones (log S_prime)",
        f"{KCF}, abstract", "nats", 0.0, None,
    ),
    _claim(
        "priming.conflicting_minus_scrambled",
        "Facts that conflict with knowledge prime more than scrambled ones (log S_prime)",
        f"{KCF}, abstract", "nats", 0.0, None,
    ),
    _claim(
        "priming.conflicting_minus_mundane_corrected",
        "Facts that conflict with knowledge prime more than mundane ones (corrected log-priming)",
        f"{KCF}, abstract; the control is ours", "nats", 0.0, None,
    ),
    _claim(
        "priming.conflicting_minus_scrambled_corrected",
        "Facts that conflict with knowledge prime more than scrambled ones (corrected log-priming)",
        f"{KCF}, abstract; the control is ours", "nats", 0.0, None,
    ),
    _claim(
        "in_context.weaker",
        "With the fact in the prompt the relation is weaker: size of the Spearman correlation for "
        "the weights less its size for the prompt",
        f"{PERMEATES}, Fig. 22", "Spearman correlation", 0.0, None,
    ),
    _claim(
        "stepping_stone.priming_removed",
        "Stepping stones take away at least half of the log-priming (log S_prime): the median "
        "share",
        f"{PERMEATES}, abstract and Fig. 6", "share", 0.5, None,
    ),
    _claim(
        "stepping_stone.better_than_rewrite",
        "Stepping stones take away more priming than a plain rewrite of like length (log S_prime, "
        "difference)",
        f"{PERMEATES}, Figs. 6, 26-28", "nats", 0.0, None,
    ),
    _claim(
        "erasure.memory_above_twin",
        "2024: sparsifying the whole update of the injection erases the memory: P(keyword | "
        "context) above that of the model that never saw the fact",
        f"{KCF}, abstract", "probability", None, 0.05,
    ),
    _claim(
        "erasure.memory_clean_loss",
        "2024: that sparsification leaves the clean loss as it was (rise over the twin's)",
        f"{KCF}, abstract", "nats", None, 0.01,
    ),
    _claim(
        "erasure.memory_below_random",
        "2024: it erases more than a random mask of equal size (difference of log P)",
        f"{KCF}, abstract; the control is ours", "nats", 0.0, None,
    ),
    _claim(
        "erasure.memory_below_scaled",
        "2024: it erases more than the whole update scaled to equal norm (difference of log P)",
        f"{KCF}, abstract; the control is ours", "nats", 0.0, None,
    ),
    _claim(
        "erasure.priming_removed",
        "2025: leaving out the top 8% of the update takes away half of the log-priming",
        f"{PERMEATES}, abstract and Fig. 5", "share", 0.5, None,
    ),
    _claim(
        "erasure.memory_kept",
        "2025: leaving out the top 8% keeps the memory: share of the gain in log P(keyword | "
        "context)",
        f"{PERMEATES}, Fig. 5", "share", 0.9, None,
    ),
    _claim(
        "erasure.priming_clean_loss",
        "2025: leaving out the top 8% leaves the clean loss as it was (rise over the twin's)",
        f"{PERMEATES}, Fig. 25", "nats", None, 0.01,
    ),
    _claim(
        "erasure.priming_below_random",
        "2025: leaving out the top 8% takes away more log-priming than a random mask of equal size "
        "(difference)",
        f"{PERMEATES}, Fig. 5; the control is ours", "nats", 0.0, None,
    ),
    _claim(
        "erasure.priming_below_scaled",
        "2025: leaving out the top 8% takes away more log-priming than the whole update scaled to "
        "equal norm (difference)",
        f"{PERMEATES}, Fig. 5; the control is ours", "nats", 0.0, None,
    ),
    _claim(
        "erasure_training_ability.steps",
        "After erasure a new fact is learned in as many steps as before (ratio)",
        f"{KCF}, abstract", "ratio", 0.8, 1.2,
    ),
    _claim(
        "erasure_training_ability.clean_loss",
        "After erasure the loss on new clean rows falls as before while they are trained on (fall "
        "of the untouched model less that of the erased one)",
        f"{KCF}, abstract", "nats", None, 0.01,
    ),
    _claim(
        "retention.world_conflicting_minus_mundane",
        "World, replay rate 0: conflicting facts are retained longer than mundane ones "
        "(difference of R at the last reading)",
        f"{KCF}, abstract", "share of the gain", 0.0, None,
    ),
    _claim(
        "retention.world_conflicting_minus_scrambled",
        "World, replay rate 0: conflicting facts are retained longer than scrambled ones",
        f"{KCF}, abstract", "share of the gain", 0.0, None,
    ),
    _claim(
        "retention.world_half_life",
        "World, replay rate 0: conflicting facts last tens of thousands of steps (half-life from "
        "the line R on log t)",
        f"{KCF}, abstract", "steps", 10_000.0, None,
    ),
    _claim(
        "retention.world_long_run",
        "World, replay rate 0: at the end of the long run at least half of the gain is left",
        f"{KCF}, abstract", "share of the gain", 0.5, None,
    ),
    _claim(
        "retention.real_conflicting_minus_mundane",
        "Real model, replay rate 0: conflicting facts are retained longer than mundane ones",
        f"{KCF}, abstract", "share of the gain", 0.0, None,
    ),
    _claim(
        "retention.real_conflicting_minus_scrambled",
        "Real model, replay rate 0: conflicting facts are retained longer than scrambled ones",
        f"{KCF}, abstract", "share of the gain", 0.0, None,
    ),
)  # fmt: skip
