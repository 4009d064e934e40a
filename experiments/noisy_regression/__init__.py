"""Linear transformers as versatile in-context learners (Vladymyrov et al. 2024)."""
