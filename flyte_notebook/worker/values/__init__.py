"""Sends values and code to a worker and back."""
