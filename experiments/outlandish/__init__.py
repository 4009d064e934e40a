"""Fabricated facts in a language model (Sun et al. 2024, 2025)."""
