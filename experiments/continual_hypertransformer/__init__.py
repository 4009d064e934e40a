"""Continual HyperTransformer: written weights as memory (Vladymyrov et al. 2023)."""
