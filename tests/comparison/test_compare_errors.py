from collections.abc import Callable
from typing import Any

import pytest

from lightning_modules.config.errors import UserError

Make = Callable[..., str]
Ask = Callable[..., Any]

BAD: dict[str, tuple[tuple[str, ...], dict[str, Any], str]] = {
    "an unknown run": (("the swep",), {}, "(?s)no run.*'the swep'.*the sweep"),
    "a key of no run": (
        ("the sweep",),
        {"by": ["lr"]},
        r"by=: no run has the param 'lr'; did you mean 'optimizer\.lr'",
    ),
    "a misspelt key": (("the sweep",), {"by": ["modle"]}, "did you mean 'model'"),
    "a misspelt metric": (("the sweep",), {"metric": "test/acuracy"}, "metric=.*did you mean 'test/accuracy'"),
    "a baseline of two": (
        ("the sweep",),
        {"baseline": "model=mlp"},
        r"matches 2 groups of: model=mlp,optimizer\.lr=0\.001; model=mlp",
    ),
    "a baseline of none": (("the sweep",), {"baseline": "model=vit,optimizer.lr=0.1"}, "matches no groups? of: model="),
    "a baseline not by": (("the sweep",), {"baseline": "modle=mlp"}, "not grouped by 'modle'; did you mean 'model'"),
    "no key=value": (("the sweep",), {"baseline": "mlp"}, "expected key=value"),
    "an ambiguous name": (("twin",), {}, "several runs"),
    "nothing finished": (("twin 3",), {}, r"no finished run to compare \(1 FAILED\)"),
}


@pytest.mark.parametrize("mistake", BAD)
def test_a_mistake_is_answered_with_the_alternatives(
    mistake: str, sweep: Make, add: Make, ask: Ask, store: Any
) -> None:
    from lightning_modules.comparison.compare import compare
    from lightning_modules.comparison.result import CompareRequest
    from lightning_modules.comparison.run_reader import MlflowRunReader

    sweep(seeds=1)
    for name, status in (("twin", "FINISHED"), ("twin", "FINISHED"), ("twin 3", "FAILED")):
        add({}, {"test/accuracy": 0.1}, name=name, status=status)
    targets, options, message = BAD[mistake]
    with pytest.raises(UserError, match=message):
        ask(*targets, **options)
    with pytest.raises(UserError, match=message):
        compare(MlflowRunReader(store), CompareRequest(targets, **options))


def test_a_run_without_test_or_val_metrics_names_those_it_has(add: Make, ask: Ask) -> None:
    add({"seed": 0}, {"train/loss": 0.1, "system/cpu": 3.0})
    with pytest.raises(UserError, match=r"no run has a test/… or val/… metric.*train/loss"):
        ask("touchstone")


def test_an_experiment_of_failed_runs_says_so(add: Make, ask: Ask) -> None:
    add({}, {}, status="FAILED")
    with pytest.raises(UserError, match=r"no finished run to compare \(1 FAILED\)"):
        ask("touchstone")
