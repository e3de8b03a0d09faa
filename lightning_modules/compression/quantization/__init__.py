"""Quantization: codebooks, uniform grids, mixed precision, half precision, static and dynamic int8, and QAT."""
