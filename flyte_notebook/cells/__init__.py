"""Turns the text of a cell into code for a worker, with the notebook variables it needs and those it returns.

`analysis` reads the text, `selection` looks up the names in the notebook, `execution` runs the body in the worker,
`returned` holds the results, `version` tells whether code or a value is the same as before.
"""
