"""Linear Transformers are Versatile In-Context Learners (Vladymyrov et al., arXiv 2402.14180).

Command:  python -m experiments.noisy_regression            (preset cpu)
Cost:     EXPERIMENT.cost below; what a run really took stands in its report.
Expected: Table 1 of the paper (claims.TABLE): DIAG with four layers 0.059 over the oracle at noise
          up to 5, below AdaRR's 0.068; with seven about TunedRR's 0.049.
Bands:    claims.py, fixed before the first cpu run.
"""

import dataclasses

from experiments.launch import Experiment
from experiments.noisy_regression.claims import CLAIMS

STUDIES = {
    "table1": "How far over the oracle are GD++, DIAG, FULL and the ridge baselines?",
    "per_noise_profile": "And at each noise level by itself?",
    "layer_predictions": "What does the implicit model look like after each layer?",
    "weights": "What do the matrices P and Q of a trained FULL model look like?",
    "mechanism": "Do the layers rescale by the noise, and do they have momentum?",
    "gd_plus_plus_convergence": "How many layers of GD++ does a condition number take?",
    "out_of_distribution": "What remains on tasks never trained on?",
    "real_data": "And on real tables, with noise added and with their own?",
}


@dataclasses.dataclass(frozen=True)
class Config:
    """What a preset chooses. The bands are not among it."""

    # Inputs of a task, and pairs in its context.
    num_inputs: int = 10
    num_context: int = 20
    # Models trained under one vmap for every noise setting, the best of them chosen on other data.
    num_seeds: int = 5
    # Noise settings with uniform sigma up to so much; 5 must be among them.
    sigma_max: tuple[float, ...] = (0.0, 3.0, 5.0)
    # Noise settings with sigma among some values.
    sigma_sets: tuple[tuple[float, ...], ...] = ((1.0, 3.0),)
    # Layers of GD++, DIAG and DIAG with free scalars.
    depths: tuple[int, ...] = (1, 2, 3, 4)
    # Layers of FULL, at noise up to 5 alone unless full_everywhere.
    full_depths: tuple[int, ...] = (4,)
    full_everywhere: bool = False
    # Layers of the deep DIAG at noise up to 5.
    deep_depth: int = 7
    # Tasks a step.
    batch_size: int = 512
    # Steps for each layer of GD++ and DIAG.
    steps_per_layer: int = 1_500
    # But never more than so many.
    most_steps: int = 10_000
    # Of Adam for GD++ and DIAG, falling to zero by a cosine.
    learning_rate: float = 0.005
    # Steps of FULL.
    full_steps: int = 8_000
    # Of Adam for FULL.
    full_learning_rate: float = 0.002
    # Steps of the deep DIAG.
    deep_steps: int = 20_000
    # Of Adam for the deep DIAG.
    deep_learning_rate: float = 0.002
    # Spectra of contexts that training draws from, for all but FULL.
    spectra_pool: int = 262_144
    # Contexts that the best seed is chosen on.
    choice_tasks: int = 32_768
    # Contexts that losses are measured on.
    eval_tasks: int = 100_000
    # Contexts a noise level in profiles.
    profile_tasks: int = 20_000
    # Contexts that the ridge baselines are tuned on.
    tuning_tasks: int = 65_536
    # Spectra drawn for each condition number.
    spectra: int = 4
    # Tasks drawn from a real table.
    real_tasks: int = 4_000

    def validate(self) -> None:
        """Raises ValueError, its first word the field, where a setting makes no sense."""
        for name in ("num_inputs", "num_context", "num_seeds", "deep_depth", "batch_size",
                     "steps_per_layer", "most_steps", "full_steps", "deep_steps"):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("spectra_pool", "choice_tasks", "eval_tasks", "profile_tasks",
                     "tuning_tasks", "spectra", "real_tasks"):  # fmt: skip
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, for intervals")
        if self.num_context <= self.num_inputs:
            raise ValueError(
                f"num_context must be above num_inputs ({self.num_inputs}), or least squares "
                f"leaves no residual to estimate the noise from (AdaRR); not {self.num_context}"
            )
        for name in ("depths", "full_depths"):
            values = getattr(self, name)
            if not values or min(values) < 1 or len(set(values)) < len(values):
                raise ValueError(f"{name} must name different positive numbers, not {values}")
        if max(self.depths) < 2:
            raise ValueError(f"depths must go to 2 or more, for momentum; not {self.depths}")
        # What the smallest real tables hold: ten inputs (diabetes), 178 rows (wine).
        for name, most in (("num_inputs", 10), ("num_context", 150)):
            if getattr(self, name) > most:
                raise ValueError(
                    f"{name} must be at most {most}, for real data; not {getattr(self, name)}"
                )
        for name in ("learning_rate", "full_learning_rate", "deep_learning_rate"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        sets = [sigma for group in self.sigma_sets for sigma in group]
        for name, values in (("sigma_max", self.sigma_max), ("sigma_sets", sets)):
            if not all(0 <= sigma < float("inf") for sigma in values):
                raise ValueError(
                    f"{name} holds standard deviations, at least 0 and finite, not {list(values)}"
                )
        for name in ("sigma_max", "sigma_sets"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                raise ValueError(f"{name} names a setting twice: {values}")
        if any(len(group) not in (1, 2, 3, 6) for group in self.sigma_sets):
            raise ValueError("sigma_sets must have one, two, three or six values each")
        if 5.0 not in self.sigma_max:
            raise ValueError("sigma_max must name 5, which the claims on mechanisms are about")

    @property
    def settings(self) -> tuple:
        """All noise settings of Table 1."""
        return (*self.sigma_max, *self.sigma_sets)


# Equal numbers of contexts everywhere: then the studies share what they compile.
SMOKE = Config(
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
    tuning_tasks=64,
    spectra=2,
    real_tasks=64,
)

# The paper: batch 2048, 200,000 steps, best of five seeds, one to seven layers, all noise settings.
PAPER = Config(
    num_seeds=5,
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

EXPERIMENT = Experiment(
    name="noisy_regression",
    title="Linear transformers are versatile in-context learners",
    authors="Vladymyrov, von Oswald, Sandler, Ge",
    year=2024,
    arxiv="2402.14180",
    shows="linear transformers handle noise of unknown strength",
    presets={"smoke": SMOKE, "cpu": Config(), "paper": PAPER},
    studies=STUDIES,
    claims=CLAIMS,
    cost={
        "smoke": "about a minute on two cores, nearly all of it compilation",
        "cpu": "about two hours on two cores",
        "paper": "for a GPU or TPU",
    },
)
