"""From the text of a cell to code that a worker runs, the notebook variables it takes, and those it gives back.

`analysis` reads the text, `selection` looks the names up in the notebook, `execution` runs the body in the worker,
`returned` carries what came out, `version` tells whether code or a value is the same as another time.
"""
