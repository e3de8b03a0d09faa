"""Reproduction of published results: claims, their runs, and a statistical verdict on each."""
