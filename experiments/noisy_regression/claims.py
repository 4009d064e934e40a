"""What the paper claims, and the band each measurement must fall in.

Bands were fixed before the first `cpu` run, after pilots on other seeds that chose the training.
The statement of mechanism.momentum changed twice while that run was under way: README.md says how.

Losses are expected excesses over the ridge oracle that knows sigma, 1/2 |w - w_oracle|^2: the
paper's adjusted loss. Bands on trained losses are one-sided: who trains better passes.
"""

from ico.report import Claim

PAPER = "2402.14180"

# Table 1 (appendix B): setting -> learner -> loss. 0 stands where the paper prints 0.
TABLE = {
    "0": {"GD++ 2": 0.341, "DIAG 2": 0.265, "FULL 2": 0.264, "GD++ 4": 9.9e-5, "DIAG 4": 1.2e-4,
          "FULL 4": 1.6e-4, "GD++ 7": 2.7e-12, "DIAG 7": 2.5e-12, "FULL 7": 2.5e-12,
          "ConstRR": 0.0, "AdaRR": 0.0, "TunedRR": 0.0},
    "3": {"GD++ 2": 0.265, "DIAG 2": 0.188, "FULL 2": 0.188, "GD++ 4": 0.160, "DIAG 4": 0.041,
          "FULL 4": 0.038, "GD++ 7": 0.161, "DIAG 7": 0.027, "FULL 7": 0.025,
          "ConstRR": 0.161, "AdaRR": 0.034, "TunedRR": 0.023},
    "5": {"GD++ 2": 0.366, "DIAG 2": 0.242, "FULL 2": 0.245, "GD++ 4": 0.344, "DIAG 4": 0.059,
          "FULL 4": 0.065, "GD++ 7": 0.344, "DIAG 7": 0.047, "FULL 7": 0.047,
          "ConstRR": 0.365, "AdaRR": 0.068, "TunedRR": 0.049},
    "7": {"GD++ 2": 0.530, "DIAG 2": 0.259, "FULL 2": 0.263, "GD++ 4": 0.530, "DIAG 4": 0.073,
          "FULL 4": 0.076, "GD++ 7": 0.530, "DIAG 7": 0.059, "FULL 7": 0.057,
          "ConstRR": 0.530, "AdaRR": 0.092, "TunedRR": 0.068},
    "{1, 3}": {"GD++ 2": 0.305, "DIAG 2": 0.201, "FULL 2": 0.202, "GD++ 4": 0.222,
               "DIAG 4": 0.043, "FULL 4": 0.032, "GD++ 7": 0.222, "DIAG 7": 0.018,
               "FULL 7": 0.010, "ConstRR": 0.222, "AdaRR": 0.051,
               "TunedRR": 0.021},
    "{1, 3, 5}": {"GD++ 2": 0.427, "DIAG 2": 0.246, "FULL 2": 0.276, "GD++ 4": 0.422,
                  "DIAG 4": 0.062, "FULL 4": 0.061, "GD++ 7": 0.422, "DIAG 7": 0.046,
                  "FULL 7": 0.035, "ConstRR": 0.422, "AdaRR": 0.084,
                  "TunedRR": 0.054},
}  # fmt: skip
# One layer: the paper gives one number for all variants.
ONE_LAYER = {"0": 1.768, "3": 1.175, "5": 0.907, "7": 0.806, "{1, 3}": 1.007, "{1, 3, 5}": 0.819}
# Its closed form without noise, D / 2 (1 - N / (N + D + 1)) for D = 10, N = 20.
ONE_LAYER_NOISE_FREE = 5 * (1 - 20 / 31)


def _claim(id, statement, where, unit, low, high):
    return Claim(id, statement, f"{PAPER}, {where}", unit, (low, high))


CLAIMS = (
    _claim(
        "table1.const_and_ada",
        "The baselines ConstRR and AdaRR have their losses of Table 1: the ratio furthest from one",
        "Table 1", "ratio", 0.95, 1.05,
    ),
    _claim(
        "table1.tuned",
        "So has TunedRR, whose tuning grid is not known",
        "Table 1", "ratio", 0.92, 1.08,
    ),
    _claim(
        "table1.noise_free_baselines",
        "Without noise all three have no loss: the largest",
        "Table 1", "half squared error", None, 1e-6,
    ),
    _claim(
        "table1.one_layer",
        "One layer of every variant, best of the seeds, has the loss of Table 1 or less: the "
        "largest ratio",
        "Table 1", "ratio", None, 1.05,
    ),
    _claim(
        "table1.one_layer_noise_free",
        "Without noise it has the closed form's, 1.774: the ratio furthest from one",
        "Table 1", "ratio", 0.99, 1.01,
    ),
    _claim(
        "table1.two_layers",
        "Two layers, best of the seeds, have the losses of Table 1 or less: the largest ratio",
        "Table 1", "ratio", None, 1.05,
    ),
    _claim(
        "table1.four_layers",
        "Four layers of DIAG, best of the seeds, have those of Table 1 at noise up to 3 and 5, or "
        "less: the larger ratio",
        "Table 1", "ratio", None, 1.25,
    ),
    _claim(
        "table1.diag_below_ada",
        "Four layers of DIAG, best of the seeds, are better than AdaRR at noise up to 5 (AdaRR's "
        "loss minus theirs)",
        "Table 1", "half squared error", 0.0, None,
    ),
    _claim(
        "table1.gd_plus_plus_like_const",
        "GD++ ends within 10% of ConstRR: four layers, noise up to 5, best of the seeds",
        "Table 1", "ratio", 0.9, 1.1,
    ),
    _claim(
        "table1.diag_like_full",
        "DIAG is within 15% of FULL: four layers, noise up to 5, best of the seeds of each",
        "Table 1", "ratio", 0.85, 1.15,
    ),
    _claim(
        "table1.seven_layers",
        "Seven layers of DIAG, best of the seeds, match or beat TunedRR at noise up to 5",
        "Table 1", "ratio", None, 1.05,
    ),
    _claim(
        "mechanism.rescaling",
        "Without w_yy, all else as trained, the loss of DIAG is higher (rise)",
        "section 4.3", "half squared error", 0.0, None,
    ),
    _claim(
        "mechanism.step",
        "The effective step <w, w_OLS> / |w_OLS|^2 falls with the noise: rank correlation with "
        "sigma",
        "section 4.3", "Spearman's rho", None, -0.95,
    ),
    _claim(
        "mechanism.momentum_fit",
        "Preconditioned gradient and last step explain the next step of DIAG: the least R^2 of "
        "its steps",
        "section 4.3", "R^2", 0.95, None,
    ),
    _claim(
        "mechanism.momentum",
        "The momentum term that a layer holds exactly goes along the last step, gradient beside it "
        "and never against it: the smallest coefficient over steps",
        "section 4.3; the exact term is ours", "coefficient", 0.01, None,
    ),
    _claim(
        "gd_plus_plus_convergence.linear",
        "The layers that GD++ needs grow linearly with the logarithm of the condition number",
        "Theorem 5.1", "R^2", 0.9, None,
    ),
)  # fmt: skip
