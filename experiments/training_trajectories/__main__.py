"""`python -m experiments.training_trajectories`: paper.py says what it runs, and what it costs."""

from experiments.training_trajectories.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
