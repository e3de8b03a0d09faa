"""Configs as plain values: nested dicts and lists, and one level of dotted keys, by which MLflow keeps and compares them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from omegaconf import DictConfig, ListConfig

PlainDict = dict[str, Any]  # as parsed from YAML or JSON: whoever reads a key knows what it holds


def to_plain(node: "DictConfig | Mapping[str, object]", resolve: bool = True) -> PlainDict:
    """Return a config node as a dict of plain values, with its interpolations resolved or as they are written."""
    from omegaconf import OmegaConf

    plain = OmegaConf.to_container(node, resolve=resolve) if OmegaConf.is_config(node) else node
    return {str(key): value for key, value in plain.items()}  # type: ignore[union-attr] # it has the keys of the node


def raw_value(node: "DictConfig | ListConfig", key: object) -> str:
    """Return the value at a key or index as it is written in YAML, with its interpolations."""
    from omegaconf import OmegaConf

    value = OmegaConf.to_container(node, resolve=False)[key]  # type: ignore[index,call-overload] # a dict or a list
    return "null" if value is None else str(value)


def flatten(node: object, prefix: str = "") -> PlainDict:
    """Return dotted key -> value of every leaf of nested mappings and lists; an empty one is a leaf too."""
    if isinstance(node, list | tuple) and not any(isinstance(item, Mapping | list) for item in node):
        return {prefix: node}
    items = node.items() if isinstance(node, Mapping) else enumerate(node) if isinstance(node, list | tuple) else ()
    parts = ((f"{prefix}.{key}" if prefix else str(key), value) for key, value in items)
    return {k: v for key, value in parts for k, v in flatten(value, key).items()} or {prefix: node}
