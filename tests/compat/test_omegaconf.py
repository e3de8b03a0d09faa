import pytest
from omegaconf import DictConfig, ListConfig, OmegaConf

from lightning_modules.compat import omegaconf as compat


@pytest.mark.parametrize(
    ("node", "none", "empty"),
    [
        (DictConfig(None), True, True),
        (DictConfig("???"), False, True),
        (DictConfig({}), False, False),
        (ListConfig(None), True, True),
        (ListConfig("???"), False, True),
        (ListConfig([1]), False, False),
    ],
)
def test_nodes_without_content_are_known(node, none, empty):
    assert compat.is_none(node) == none
    assert compat.is_empty(node) == empty


def test_a_child_is_found_without_its_value_being_asked_for():
    config = OmegaConf.create({"missing": "???", "there": {"a": 1}, "link": "${there}"})
    assert compat.child_node(config, "missing")._value() == "???"
    assert compat.child_node(config, "there") == {"a": 1}
    assert compat.child_node(config, "link") == {"a": 1}
