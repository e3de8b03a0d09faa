"""Compression to a budget: as small or fast as is wanted, with the quality held. What is tried, and what came of it."""
