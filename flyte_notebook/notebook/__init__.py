"""Everything that touches IPython."""
