"""Arrays on disk, as numpy. Nothing here knows a task."""

from ico.data._tables import diabetes

__all__ = ["diabetes"]
