"""`python -m experiments.gd_in_context`: see paper.py for the paper, presets and costs."""

from experiments.gd_in_context.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
