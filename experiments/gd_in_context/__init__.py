"""Transformers learn in-context by gradient descent (von Oswald et al. 2022)."""
