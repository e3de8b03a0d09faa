"""What we need of OmegaConf beyond its public interface."""

from typing import Any

from omegaconf import DictConfig


def is_empty(config: Any) -> bool:
    """Whether a config node is None or '???': iterating over one raises, and OmegaConf asks this of a parent only."""
    return bool(config._is_none() or config._is_missing())


def is_none(config: Any) -> bool:
    """Whether a config node holds None: a DictConfig or ListConfig is never `None` itself."""
    return bool(config._is_none())


def child_node(config: DictConfig, key: str) -> Any:
    """The node at `key`, interpolations followed: plain access would raise for a missing value."""
    node: Any = config._get_node(key)
    return node._dereference_node() if hasattr(node, "_dereference_node") else node
