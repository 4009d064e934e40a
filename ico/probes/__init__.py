"""What is read off models: linear probes, attention patterns and token dependence so far.

The place, too, for induction scores, curvature, over-smoothing and selective prediction.
"""

from ico.probes._alternating import attention_to_partner, own_next_other, pair_share
from ico.probes._attention import attention_pattern, attention_to_previous
from ico.probes._dependence import token_dependence
from ico.probes._linear import (
    LinearProbe,
    fit_linear_probe,
    lagged_probe_errors,
    layerwise_probe_errors,
)

__all__ = [
    "LinearProbe",
    "attention_pattern",
    "attention_to_partner",
    "attention_to_previous",
    "fit_linear_probe",
    "lagged_probe_errors",
    "layerwise_probe_errors",
    "own_next_other",
    "pair_share",
    "token_dependence",
]
