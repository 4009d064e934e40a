"""Fine-tuning image transformers with learnable memory (Sandler et al. 2022)."""
