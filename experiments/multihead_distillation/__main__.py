"""`python -m experiments.multihead_distillation`: paper.py says what it runs."""

from experiments.multihead_distillation.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
