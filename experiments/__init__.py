"""One package a paper, one file a small system (`python -m experiments` lists them)."""
