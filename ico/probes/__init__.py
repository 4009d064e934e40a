"""What is read off models: linear probes, attention, dependence, the loss around, rejection."""

from ico.probes._alternating import attention_to_partner, own_next_other, pair_share
from ico.probes._attention import attention_pattern, attention_to_previous
from ico.probes._dependence import token_dependence
from ico.probes._landscape import (
    PolynomialFit,
    Spectrum,
    StepEffect,
    Travelled,
    along,
    distance_travelled,
    gradient_cosine,
    hessian_product,
    hessian_spectrum,
    lanczos,
    polynomial_fit,
    predicted_step,
    stationary_variance,
)
from ico.probes._linear import (
    LinearProbe,
    fit_linear_probe,
    lagged_probe_errors,
    layerwise_probe_errors,
)
from ico.probes._selective import (
    RiskCoverage,
    disagreement,
    error_detection,
    recall_at,
    risk_coverage,
    threshold_at,
)

__all__ = [
    "LinearProbe",
    "PolynomialFit",
    "RiskCoverage",
    "Spectrum",
    "StepEffect",
    "Travelled",
    "along",
    "attention_pattern",
    "attention_to_partner",
    "attention_to_previous",
    "disagreement",
    "error_detection",
    "fit_linear_probe",
    "distance_travelled",
    "gradient_cosine",
    "hessian_product",
    "hessian_spectrum",
    "lagged_probe_errors",
    "lanczos",
    "layerwise_probe_errors",
    "own_next_other",
    "pair_share",
    "polynomial_fit",
    "predicted_step",
    "recall_at",
    "risk_coverage",
    "stationary_variance",
    "threshold_at",
    "token_dependence",
]
