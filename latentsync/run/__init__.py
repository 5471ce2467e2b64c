"""A run: from files to a file (engine), or in stages on frames in memory (stages)."""
