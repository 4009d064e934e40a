"""Optimizers as optax transforms, one file each."""

from ico.optim._sparse import sparse_updates, sparsify, top_mask

__all__ = ["sparse_updates", "sparsify", "top_mask"]
