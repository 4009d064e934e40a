"""Arrays on disk, as numpy. Nothing here knows a task."""

from ico.data._tables import breast_cancer, diabetes, digits, wine

__all__ = ["breast_cancer", "diabetes", "digits", "wine"]
