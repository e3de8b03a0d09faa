"""Bounds in annotations: what is in range, what the message expects, and all mistakes of a call or config at once."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt

from lightning_modules.config.bounds import Count, Fraction, Positive, bounded, out_of_bounds
from lightning_modules.config.check import check_config
from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError


@pytest.mark.parametrize(
    ("hint", "allowed", "rejected", "expected"),
    [
        (Fraction, [0, 0.5, 1], [-0.1, 1.1, float("nan")], r"expected a value in \[0, 1\]"),
        (Annotated[float, Gt(0), Lt(1)], [0.5], [0, 1], r"expected a value in \(0, 1\)"),
        (Annotated[float, Gt(50), Le(100)], [100], [50], r"expected a value in \(50, 100\]"),
        (Count, [1, 7], [0, -1], "expected 1 or more"),
        (Positive | None, [None, 0.1], [0], "expected more than 0"),
        (Annotated[int, Ge(0)] | Literal["auto"], ["auto", 0], [-1], "expected 0 or more"),
        (Sequence[Fraction], [[], [0.1, 1]], [[0.1, 2]], r"expected a value in \[0, 1\]"),
        (tuple[Fraction, Fraction], [(0, 1)], [(0, 2)], r"expected a value in \[0, 1\]"),
        (Literal["mean", "gru"], ["mean"], ["means"], "did you mean 'mean'"),
        (float, [-1.0, "text", None], [], ""),
    ],
)
def test_values_in_and_out_of_bounds(hint: Any, allowed: list[Any], rejected: list[Any], expected: str) -> None:
    assert [out_of_bounds(value, hint) for value in allowed] == [None] * len(allowed)
    for value in rejected:
        with pytest.raises(AssertionError, match=expected):
            raise AssertionError(out_of_bounds(value, hint))


class Layer:
    @bounded
    def __init__(self, size: Count, dropout: Fraction = 0.0) -> None:
        self.size, self.dropout = size, dropout


def test_a_call_reports_all_its_mistakes_at_once() -> None:
    assert Layer(3).size == 3
    with pytest.raises(UserError) as caught:
        Layer(0, dropout=2.0)
    assert str(caught.value) == "Layer.size=0: expected 1 or more\nLayer.dropout=2.0: expected a value in [0, 1]"


def test_a_config_reports_all_its_mistakes_at_once(tmp_path: Any) -> None:
    cfg = compose_run(["optimizer=lars", "optimizer.momentum=1.5", "scheduler=step", "scheduler.every=0"])
    with pytest.raises(UserError) as caught:
        check_config(cfg)
    assert "optimizer.momentum=1.5: expected a value in [0, 1)" in str(caught.value)
    assert "scheduler.every=0: expected 1 or more" in str(caught.value)
