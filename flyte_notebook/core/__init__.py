"""Values and decisions: what an attempt may use, what became of it, what that means. Starts nothing."""
