"""The two sides of a worker: the process that runs a job, and the supervisor that starts and watches it."""
