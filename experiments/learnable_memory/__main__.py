"""`python -m experiments.learnable_memory`: paper.py says what it runs."""

from experiments.learnable_memory.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
