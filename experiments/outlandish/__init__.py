"""Learning and unlearning of fabricated facts (Sun et al. 2024, 2025). So far: one fact to try."""
