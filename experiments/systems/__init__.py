"""Small systems, one file each: its question, what it does, its claims and its picture."""
