"""`python -m experiments.continual_hypertransformer`: paper.py says what it runs."""

from experiments.continual_hypertransformer.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
