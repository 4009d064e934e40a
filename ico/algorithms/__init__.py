"""Explicit learners (`apply(params, prompt) -> prediction`) and weights that perform them."""

from ico.algorithms import constructions
from ico.algorithms._gradient_descent import gd, gd_plus_plus
from ico.algorithms._newton import newton
from ico.algorithms._ridge import ridge
from ico.algorithms._search import line_search

__all__ = ["constructions", "gd", "gd_plus_plus", "line_search", "newton", "ridge"]
