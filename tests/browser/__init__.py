"""Tests that look at notebooks in a browser."""
