"""What several runs together tell: the smallest limit that is enough, a sweep across values, a limit that grows."""
