"""What we need of NumPy beyond its public interface."""

from numpy._core.multiarray import _reconstruct as reconstruct_array  # pickles of arrays name it; we allow only that

__all__ = ["reconstruct_array"]
