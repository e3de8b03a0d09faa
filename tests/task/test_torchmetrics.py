"""Metrics of torchmetrics by `_target_`, beside those with a name."""

from collections.abc import Callable
from typing import Any

import pytest
from torchmetrics.functional.classification import multiclass_cohen_kappa

from lightning_modules.config.command_line import compose_run
from lightning_modules.config.errors import UserError
from lightning_modules.run.run import run as run_config

KAPPA = "{_target_: torchmetrics.classification.MulticlassCohenKappa, num_classes: 10}"
F1 = "{_target_: torchmetrics.classification.MulticlassF1Score, num_classes: 10, average: none}"
WRAPPED = f"{{_target_: torchmetrics.wrappers.MinMaxMetric, base_metric: {KAPPA}}}"


def test_a_metric_by_target_is_logged_beside_named_ones(fit: Callable[..., Any]) -> None:
    run = fit("model=linear", f"task.metrics.val=[accuracy, {KAPPA}]", f"task.metrics.test=[f1, {F1}, {WRAPPED}]")
    scores, y = run.predict("val")
    expected = float(multiclass_cohen_kappa(scores.softmax(-1), y, 10))
    assert run.metrics["val/multiclass_cohen_kappa"] == pytest.approx(expected, abs=1e-6)
    assert "val/accuracy" in run.metrics
    run.trainer.test(run.task, datamodule=run.data, verbose=False)
    classes = [run.metrics[f"test/multiclass_f1_score/{i}"] for i in range(10)]
    assert sum(classes) / 10 == pytest.approx(run.metrics["test/f1"], abs=1e-6)
    assert run.metrics["test/max"] >= run.metrics["test/min"]


@pytest.mark.parametrize(
    "metrics, message",
    [
        ("[{_target_: torch.nn.Linear, in_features: 2, out_features: 2}]", r"test\[0\]: Linear is not a metric"),
        (KAPPA, "expected a list of names"),
        (f"[{KAPPA}, {KAPPA}]", "two metrics are multiclass_cohen_kappa"),
        (f"[{KAPPA.replace('10', '3')}]", "MulticlassCohenKappa does not work with this task and data"),
        (
            "[{_target_: torchmetrics.classification.MulticlassConfusionMatrix, num_classes: 10}]",
            r"has shape \(10, 10\)",
        ),
        ("[{_target_: torchmetrics.classification.MulticlassCohenKappa}]", r"test\[0\].num_classes: missing argument"),
        (f"[{KAPPA.replace('}', ', weigths: none}')}]", "weigths"),
        ("[kapa]", "unknown metric 'kapa'"),
    ],
)
def test_a_wrong_metric_is_one_message_before_the_run(metrics: str, message: str) -> None:
    words = ("model=linear", "data.per_class=10", "tracking=none", "callbacks=last", f"task.metrics.test={metrics}")
    with pytest.raises(Exception, match=message) as error:
        run_config(compose_run(words))
    assert isinstance(error.value.__cause__ or error.value, UserError | ValueError)


def test_ranking_metrics_have_names_only() -> None:
    from lightning_modules.zoo.task.ranking_metrics import ranking_metrics

    with pytest.raises(UserError, match="unknown metric"):
        ranking_metrics([object()], 10, sampled=False)  # type: ignore[list-item]


def test_a_metric_by_target_can_be_monitored_and_is_rebuilt_with_the_model(train: Any, store: Any) -> None:
    from lightning_modules.run.serve import load_task
    from lightning_modules.tracking.resume import best_checkpoint

    run = train(f"task.metrics.val=[{F1.replace('none', 'macro')}]", "task.monitor.metric=val/multiclass_f1_score")
    assert run.data.params["callbacks.best.mode"] == "max"
    assert load_task(best_checkpoint(store, run)).metric_names() >= {"val/multiclass_f1_score"}
