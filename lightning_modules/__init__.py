"""Touchstone: a research harness. One room per config group; importing this package imports nothing heavy."""
