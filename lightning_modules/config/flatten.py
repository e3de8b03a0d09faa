"""Nested configs as one level of dotted keys, which is what MLflow keeps and what two configs are compared by."""

from collections.abc import Mapping
from typing import Any


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value of every leaf of nested mappings and lists; an empty one is a leaf too."""
    if isinstance(node, Mapping) and node:
        return {
            k: v
            for key, value in node.items()
            for k, v in flatten(value, f"{prefix}.{key}" if prefix else str(key)).items()
        }
    if isinstance(node, list | tuple) and any(isinstance(item, Mapping | list) for item in node):
        return {k: v for i, value in enumerate(node) for k, v in flatten(value, f"{prefix}.{i}").items()}
    return {prefix: node}
