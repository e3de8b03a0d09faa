"""Comparison of many runs: read, group over seeds, test against a baseline, plot and log."""
