"""A network on made data as the lifecycle hands it to a stage, and a plain loop in the lifecycle's place."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.compression.compressed_state import CompressedState
from lightning_modules.compression.stage import Stage, StageContext
from lightning_modules.task.classification import Classification

CLASSES, SAMPLES, BATCH = 3, 48, 12
WorkOn = Callable[..., StageContext]
Drive = Callable[..., None]


@pytest.fixture
def work_on(tmp_path: Path) -> WorkOn:
    """Three classes that differ in their mean, samples of `shape`; the metric is the accuracy on the same samples."""

    def make(model: nn.Module, shape: tuple[int, ...], seed: int = 0) -> StageContext:
        generator = torch.Generator().manual_seed(5)
        y = torch.arange(SAMPLES) % CLASSES
        means = torch.randn(CLASSES, *shape, generator=generator)
        x = means[y] + 0.5 * torch.randn(SAMPLES, *shape, generator=generator)

        def batches() -> Iterator[dict[str, Tensor]]:
            for part in torch.arange(SAMPLES).split(BATCH):
                yield {"x": x[part], "y": y[part]}

        @torch.no_grad()
        def evaluate(network: nn.Module) -> float:
            network.eval()
            return float((network(x).argmax(-1) == y).float().mean())

        task = Classification(model, nn.CrossEntropyLoss(), num_outputs=CLASSES)
        initial = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        return StageContext(
            task, CompressedState(), x[:2], batches, evaluate, True, seed, tmp_path / "pictures", print, initial
        )

    return make


def take_steps(
    stage: Stage | None,
    context: StageContext,
    total: int,
    first: int = 0,
    last: int | None = None,
    momentum: float = 0.9,
) -> None:
    """Train `work.model` from step `first` to `last` of `total`, with the stage's hooks where the keeper calls them."""
    optimizer = torch.optim.SGD(context.model.parameters(), lr=0.05, momentum=momentum)
    data = list(context.batches())
    context.model.train()
    for step in range(first, total if last is None else last):
        batch = data[step % len(data)]
        optimizer.zero_grad()
        context.task.evaluation_loss(context.model(batch["x"]), batch["y"]).backward()
        if stage is not None:
            stage.before_step(context, step, total)
        optimizer.step()
        if stage is not None:
            stage.after_step(context, step, total)
        context.state.apply(context.model)


@pytest.fixture
def drive() -> Drive:
    """Do a stage as `Phases` does; `steps` a round, `dense` steps of the run's own training before."""

    def run(stage: Stage, context: StageContext, steps: int = 12, dense: int = 0) -> None:
        stage.name = "prune"
        stage.check(context.model, context.preprocess(context.example), CLASSES)
        take_steps(None, context, dense)
        stage.begin(context)
        context.state.apply(context.model)
        for number in range(stage.rounds if stage.epochs or stage.when == "fit" else 0):
            take_steps(stage, context, steps)
            if number + 1 < stage.rounds:
                stage.after_round(context, number)
                context.state.apply(context.model)
        stage.end(context)

    return run


@pytest.fixture
def go_on() -> Callable[..., None]:
    return take_steps
