"""The error card and what belongs to it."""
