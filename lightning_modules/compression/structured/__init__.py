"""Structured compression: channel and head pruning, low-rank factorization, and batch-norm folding."""
