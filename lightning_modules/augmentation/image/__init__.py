"""Transforms of whole batches of images [B, C, H, W], with parameters of its own for each image."""
