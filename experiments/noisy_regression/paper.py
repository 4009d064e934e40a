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

from collections.abc import Callable

from ico import lab, report
from ico.report import Record, Records

# Sample sizes: an interval needs two.
Several = lab.within(int, 2)


class Config(lab.Config):
    """What a preset chooses. The bands are not among it."""

    # Inputs of a task. Diabetes, the smallest of the real tables, has ten.
    num_inputs: lab.within(int, 1, 10) = 10
    # Pairs in the context of a task. Wine, the shortest of the real tables, has 178 rows.
    num_context: lab.within(int, 1, 150) = 20
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
    noise_levels: lab.within(int, 4) = 13
    # Contexts that the ridge baselines are tuned on.
    tuning_tasks: Several = 65_536
    # Spectra drawn for each condition number.
    spectra: Several = 4
    # Condition numbers 4, 4^2 ... that the layers of GD++ are counted at.
    condition_numbers: lab.within(int, 3) = 8
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


# Equal numbers of contexts everywhere: then the studies share compiled programs.
SMOKE = dict(
    num_seeds=2,
    sigma_max=(0.0, 5.0),
    depths=(2,),
    full_depths=(2,),
    deep_depth=2,
    batch_size=16,
    steps_per_layer=2,
    full_steps=2,
    deep_steps=2,
    spectra_pool=64,
    choice_tasks=64,
    eval_tasks=64,
    profile_tasks=64,
    noise_levels=4,
    tuning_tasks=64,
    spectra=2,
    condition_numbers=3,
    count_gradient_descent=False,
    real_tasks=64,
)

# The paper: batch 2048, 200,000 steps, best of five seeds, one to seven layers, all noise settings.
PAPER = dict(
    sigma_max=(0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0),
    sigma_sets=((1.0, 3.0), (1.0, 3.0, 5.0)),
    depths=(1, 2, 3, 4, 5, 6, 7),
    full_depths=(1, 2, 3, 4, 5, 6, 7),
    full_everywhere=True,
    batch_size=2048,
    steps_per_layer=200_000,
    most_steps=200_000,
    full_steps=200_000,
    deep_steps=200_000,
    learning_rate=1e-4,
    full_learning_rate=1e-4,
    deep_learning_rate=1e-4,
)

paper = lab.Paper(
    "noisy_regression",
    config=Config,
    authors="Vladymyrov, von Oswald, Sandler, Ge",
    year=2024,
    arxiv="2402.14180",
    smoke=SMOKE,
    paper=PAPER,
    studies=(
        "table1",
        "per_noise_profile",
        "layer_predictions",
        "weights",
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


def deepest_diag(learners: list[str]) -> str:
    """Which of some learners is the DIAG with most layers."""
    return max((name for name in learners if name.startswith("DIAG, ")), key=_layers)


def _layers(name: str) -> int:
    return int(name.split()[1])


def side_by_side(*rows: str, of: Callable[[Record], float], **where) -> Callable:
    """A table with a row for each place on the axes `rows`, and a column for each learner.

    Args:
      *rows: axes.
      of: what stands in a cell.
      **where: which records.
    """

    def table(records: Records) -> list[dict]:
        found: dict[tuple, dict] = {}
        for record in records.where(**where):
            place = {axis: record[axis] for axis in rows}
            row = found.setdefault(tuple(place.values()), place)
            row[record["learner"]] = of(record)
        return list(found.values())

    return table
