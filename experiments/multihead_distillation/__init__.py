"""Decentralized learning with multi-headed distillation (Zhmoginov et al. 2022)."""
