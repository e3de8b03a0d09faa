"""Every test of this room keeps its cache to itself."""

from data_fixtures import fashion_mnist, mnist1d_cache, own_cache

__all__ = ["fashion_mnist", "mnist1d_cache", "own_cache"]
