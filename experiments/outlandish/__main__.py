"""`python -m experiments.outlandish`: see paper.py."""

from experiments.outlandish.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
