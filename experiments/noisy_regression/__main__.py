"""`python -m experiments.noisy_regression`: paper.py says what it runs, and what it costs."""

from experiments.noisy_regression.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
