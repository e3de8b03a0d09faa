"""Strategies that distribute a run over processes and devices."""
