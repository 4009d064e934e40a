"""Narrowing the Focus: Learned Optimizers for Pretrained Models."""
