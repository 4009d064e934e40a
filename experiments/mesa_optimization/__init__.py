"""Uncovering mesa-optimization algorithms in Transformers (2309.05858)."""
