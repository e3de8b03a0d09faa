"""Weights of few bits, and programs of whole numbers: codebooks, grids, mixed bits, static and dynamic int8, QAT."""
