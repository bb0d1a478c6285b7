"""Results from several runs together: the smallest sufficient limit, a sweep across values, a growing limit."""
