"""Training trajectories and averages of iterates (Sandler et al. 2023)."""
