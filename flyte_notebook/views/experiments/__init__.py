"""Fits, sweeps, growing limits and comparisons, as text, HTML and pictures."""
