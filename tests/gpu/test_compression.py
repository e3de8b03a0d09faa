"""All stages of compression on the device, and exports that are loaded on the CPU."""

from collections.abc import Callable
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

RECIPES = (
    "magnitude", "gradual", "movement", "snip", "taylor", "two_four", "channels", "low_rank", "codebook", "half",
    "deep_compression", "int8_static", "int8_dynamic", "weight_only", "qat", "fold", "lottery_ticket",
)  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_runs_and_what_it_saves_is_tested(fit: Callable[..., Any], recipe: str) -> None:
    network = "mlp" if recipe == "two_four" else "convnet"  # 2:4 needs numbers of inputs that are multiples of 4
    run = fit("data.per_class=20", f"model={network}", f"compression={recipe}")
    assert run.info.status == "FINISHED"
    assert run.data.metrics["compressed/test/accuracy"] >= 0.0


@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_an_export_on_the_cpu_gives_the_same_outputs(
    fit: Callable[..., Any], store: Any, tmp_path: Any, form: str
) -> None:
    from lightning_modules.export.export import export_run

    found, _ = export_run(store, fit("data.per_class=20"), form, False, tmp_path)
    assert found.agreement.max_error < 1e-3
