"""`python -m experiments.learned_optimizer`: see paper.py for the paper, presets and studies."""

from experiments.learned_optimizer.paper import paper

if __name__ == "__main__":
    raise SystemExit(paper.main())
