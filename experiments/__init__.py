"""One package a paper, and the command line they share (`python -m experiments` lists them)."""
