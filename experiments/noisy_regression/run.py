"""The studies of `noisy_regression`, by the names that config.py gives them."""

from experiments.noisy_regression import mechanism, table, transfer

STUDIES = {
    "table1": table.table1,
    "per_noise_profile": table.per_noise_profile,
    "layer_predictions": table.layer_predictions,
    "weights": mechanism.weights,
    "mechanism": mechanism.mechanism,
    "gd_plus_plus_convergence": mechanism.gd_plus_plus_convergence,
    "out_of_distribution": transfer.out_of_distribution,
    "real_data": transfer.real_data,
}
