"""Runs a cell on a Flyte cluster: what is sent there, what is read back, and what that means.

The path of one run: `shipping` makes a task that carries our code, `preflight` finds what would fail there,
`submission` sends it with the client that is configured at that moment, `following` reads phases, logs and results
until the end, and `verdict` decides what they mean. `pod` and `sampling` run on the cluster; they talk to the notebook
in `tagged` lines of the log, for which a cluster needs nothing but its logs.
"""
