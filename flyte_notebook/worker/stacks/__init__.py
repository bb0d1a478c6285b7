"""The current lines of a process, read from outside and from inside, and the memory that they allocated."""
