"""The error card and its parts."""
