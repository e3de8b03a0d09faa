"""Augmentation: transforms of a whole raw batch on its device, random per sample, in training only."""
