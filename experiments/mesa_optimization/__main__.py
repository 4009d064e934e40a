"""`python -m experiments.mesa_optimization`: see paper.py for the paper, presets and cost."""

from experiments.mesa_optimization.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
