"""Values and decisions: the limits of an attempt, its outcome, and the meaning of the outcome. Starts nothing."""
