"""Data: sets that live in memory, their splits, batch order, preprocessing and fingerprints."""
