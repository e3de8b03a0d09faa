"""Augmentation of texts: batches of raw word ids, padded at the end."""
