"""Linear transformers are versatile in-context learners.

Linear transformers handle noise of unknown strength.

Paper:    Vladymyrov, von Oswald, Sandler, Ge, 2024, arXiv 2402.14180.
Command:  python -m experiments.noisy_regression            (preset cpu)
Cost:     about two hours on two cores; what a run really took stands in its report.
Expected: Table 1 of the paper (table1.py): DIAG with four layers 0.059 above the oracle at noise
          up to 5, below AdaRR's 0.068; with seven layers about TunedRR's 0.049.
Bands:    beside the claims in each study's file. They were fixed before the first `cpu` run, after
          pilots on other seeds that chose how to train. The statement of mechanism.momentum
          changed twice while that run was under way: README.md says how.

Losses are expected excesses over the ridge oracle that knows sigma, 1/2 |w - w_oracle|^2: the
paper's adjusted loss. Bands on losses of trained models are one-sided: training better passes.
"""

from typing import Annotated

from ico import lab, report
from ico.lab import Records

# Sample sizes: an interval needs two.
Several = Annotated[int, lab.Range(2)]


class Config(lab.Config):
    """What a preset chooses. The bands are not among it."""

    # Inputs of a task. Diabetes, the smallest of the real tables, has ten.
    num_inputs: Annotated[int, lab.Range(1, 10)] = 10
    # Pairs in the context of a task. Wine, the shortest of the real tables, has 178 rows.
    num_context: Annotated[int, lab.Range(1, 150)] = 20
    # Models trained under one vmap for every noise setting; the best is chosen on other data.
    num_seeds: lab.Count = 5
    # Noise settings with sigma uniform from 0 to this value; 5 must be among them.
    sigma_max: lab.Distinct[lab.NonNegative] = (0.0, 3.0, 5.0)
    # Noise settings with sigma drawn from a set of one, two, three or six values.
    sigma_sets: tuple[tuple[lab.NonNegative, ...], ...] = ((1.0, 3.0),)
    # Layers of GD++, DIAG and DIAG with free scalars.
    depths: lab.Distinct[lab.Count] = (1, 2, 3, 4)
    # Layers of FULL, trained at noise up to 5 alone unless full_everywhere.
    full_depths: lab.Distinct[lab.Count] = (4,)
    full_everywhere: bool = False
    # Layers of the deep DIAG, trained at noise up to 5 alone.
    deep_depth: lab.Count = 7
    # Tasks in a training step.
    batch_size: lab.Count = 512
    # Training steps for each layer of GD++ and DIAG ...
    steps_per_layer: lab.Count = 1_500
    # ... and the most that a model gets.
    most_steps: lab.Count = 10_000
    # Largest learning rate of GD++ and DIAG; it falls to zero by a cosine.
    learning_rate: lab.Positive = 0.005
    # Training steps of FULL.
    full_steps: lab.Count = 8_000
    # Largest learning rate of FULL.
    full_learning_rate: lab.Positive = 0.002
    # Training steps of the deep DIAG.
    deep_steps: lab.Count = 20_000
    # Largest learning rate of the deep DIAG.
    deep_learning_rate: lab.Positive = 0.002
    # Spectra of contexts that training draws from, for all models but FULL.
    spectra_pool: Several = 262_144
    # Contexts that the best seed is chosen on.
    choice_tasks: Several = 32_768
    # Contexts that losses are measured on.
    eval_tasks: Several = 100_000
    # Contexts for each noise level of a profile.
    profile_tasks: Several = 20_000
    # Noise levels of a profile, from zero to one more than the models were trained with.
    noise_levels: Annotated[int, lab.Range(4)] = 13
    # Contexts that the ridge baselines are tuned on.
    tuning_tasks: Several = 65_536
    # Spectra drawn for each condition number.
    spectra: Several = 4
    # Condition numbers 4, 4^2 ... that the layers of GD++ are counted at.
    condition_numbers: Annotated[int, lab.Range(3)] = 8
    # Whether layers of gradient descent are counted too, which is most of that study.
    count_gradient_descent: bool = True
    # Tasks drawn from a real table.
    real_tasks: Several = 4_000

    def check(self) -> None:
        """Raises ValueError, its first word the field, where fields do not fit together."""
        if self.num_context <= self.num_inputs:
            raise ValueError(
                f"num_context must be above num_inputs ({self.num_inputs}), or least squares "
                f"leaves no residual to estimate the noise from (AdaRR); not {self.num_context}"
            )
        if max(self.depths) < 2:
            raise ValueError(f"depths must go to 2 or more, for momentum; not {self.depths}")
        if len(set(self.sigma_sets)) < len(self.sigma_sets):
            raise ValueError(f"sigma_sets names a setting twice: {self.sigma_sets}")
        if any(len(values) not in (1, 2, 3, 6) for values in self.sigma_sets):
            raise ValueError("sigma_sets must have one, two, three or six values each")
        if 5.0 not in self.sigma_max:
            raise ValueError("sigma_max must name 5, which the claims on mechanisms are about")

    @property
    def settings(self) -> tuple[float | tuple[float, ...], ...]:
        """All noise settings of Table 1."""
        return (*self.sigma_max, *self.sigma_sets)


# The same number of contexts everywhere: then the studies share compiled programs.
_CONTEXTS = ("spectra_pool", "choice_tasks", "eval_tasks", "profile_tasks", "tuning_tasks")
_RATES = ("learning_rate", "full_learning_rate", "deep_learning_rate")
_STEPS = ("steps_per_layer", "full_steps", "deep_steps")
_SMOKE = dict(
    **dict.fromkeys((*_CONTEXTS, "real_tasks"), 64),
    **dict.fromkeys(_STEPS, 2),
    **dict.fromkeys(("num_seeds", "deep_depth", "spectra"), 2),
    depths=(2,),
    full_depths=(2,),
    sigma_max=(0.0, 5.0),
    batch_size=16,
    noise_levels=4,
    condition_numbers=3,
    count_gradient_descent=False,
)

# The paper: batch 2048, 200,000 steps, best of five seeds, one to seven layers, all noise settings.
_PAPER = dict(
    **dict.fromkeys((*_STEPS, "most_steps"), 200_000),
    **dict.fromkeys(_RATES, 1e-4),
    **dict.fromkeys(("depths", "full_depths"), (1, 2, 3, 4, 5, 6, 7)),
    sigma_max=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0),
    sigma_sets=((1.0, 3.0), (1.0, 3.0, 5.0)),
    full_everywhere=True,
    batch_size=2048,
)

paper = lab.Paper(
    "noisy_regression",
    config=Config,
    authors="Vladymyrov, von Oswald, Sandler, Ge",
    year=2024,
    arxiv="2402.14180",
    smoke=_SMOKE,
    paper=_PAPER,
    studies=(
        "table1",
        "profiles",
        "mechanism",
        "gd_plus_plus_convergence",
        "out_of_distribution",
        "real_data",
    ),
    cost={
        "smoke": "about a minute on two cores, nearly all of it compilation",
        "cpu": "about two hours on two cores",
        "paper": "for a GPU or TPU",
    },
)

_BLUE, _VERMILION, _GREEN, _PINK, _ORANGE, _SKY, _BLACK = report.palette()
_LOOKS = {
    "GD++": (_GREEN, "^", "-."),
    "DIAG": (_BLUE, "o", "-"),
    "DIAG, free scalars": (_SKY, "P", "-"),
    "FULL": (_PINK, "D", "--"),
    "ConstRR": (_ORANGE, "", ":"),
    "AdaRR": (_VERMILION, "", "--"),
    "TunedRR": (_BLACK, "", "-."),
    "oracle": (_BLACK, "", "--"),
    "ridge, searched": (_SKY, "s", "-"),
    "zero": ("gray", "", ":"),
}


def look_of(learner: str) -> dict:
    """Colour, marker and line of a learner, the same in all figures; "DIAG, 4 layers" is DIAG."""
    variant = learner if learner in _LOOKS else learner.rsplit(", ", 1)[0]
    return dict(zip(("color", "marker", "linestyle"), _LOOKS[variant], strict=True))


def looks(records: Records, open_deepest: bool = False) -> dict[str, dict]:
    """Those of all learners of some records; the deepest DIAG may have an open marker."""
    styles = {learner: look_of(learner) for learner in records.axis("learner")}
    if open_deepest:
        styles[deepest_diag(records)]["fillstyle"] = "none"
    return styles


def deepest_diag(records: Records) -> str:
    """Which of the learners is the DIAG with most layers."""
    some = [name for name in records.axis("learner") if name.startswith("DIAG, ")]
    return max(some, key=lambda name: int(name.split()[1]))
