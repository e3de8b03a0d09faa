"""Augmentation of interactions: negatives, resampled positives, histories of items, ratings."""
