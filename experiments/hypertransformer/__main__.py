"""`python -m experiments.hypertransformer`: paper.py says what it runs, and what it costs."""

from experiments.hypertransformer.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
