"""Where a process stands, read from outside and from inside, and what its lines allocated."""
