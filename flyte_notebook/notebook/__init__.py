"""All code that uses IPython."""
