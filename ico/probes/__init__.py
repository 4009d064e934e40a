"""What is read off models: linear probes and attention patterns so far.

The place, too, for induction scores, curvature, over-smoothing and selective prediction.
"""

from ico.probes._attention import attention_pattern, attention_to_previous
from ico.probes._linear import LinearProbe, fit_linear_probe, layerwise_probe_errors

__all__ = [
    "LinearProbe",
    "attention_pattern",
    "attention_to_previous",
    "fit_linear_probe",
    "layerwise_probe_errors",
]
