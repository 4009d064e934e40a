"""HyperTransformer: networks written by a transformer (Zhmoginov et al. 2022)."""
