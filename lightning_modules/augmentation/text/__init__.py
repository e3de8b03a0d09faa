"""Augmentation of texts: rows of raw word ids with padding at the end, changed a whole batch at a time."""
