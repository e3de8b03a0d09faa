"""Unstructured and N:M pruning: which weights matter (`scores`), which are kept (`masks`), and when (the stages)."""
